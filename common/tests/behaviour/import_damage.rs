//! What an import refuses, and that no bytes make it panic.

use diptych_common::import::ImportError;
use diptych_common::spec::Depth;
use proptest::prelude::*;

use super::imports::{encoder, network, read, save, views};
use super::pth::{Item, View};

#[test]
fn whatever_is_no_tensor_is_refused_by_name() {
    let call = Item::Call("posix", "system", "touch /tmp/executed-by-an-import");
    let root = Item::Dict(vec![("conv1.weight".to_owned(), call)]);
    match read(save(&root, &[])) {
        Err(ImportError::Foreign { global }) => assert_eq!(global, "posix.system"),
        other => panic!("{other:?}"),
    }
    assert!(!std::path::Path::new("/tmp/executed-by-an-import").exists());
}

#[test]
fn a_small_file_cannot_fill_memory() {
    let view = View {
        storage: 0,
        offset: 0,
        shape: vec![1 << 15, 1 << 15],
        stride: vec![0, 0],
    };
    let root = Item::Dict(vec![("conv1.weight".to_owned(), Item::View(view))]);
    assert!(matches!(
        read(save(&root, &[1.0])),
        Err(ImportError::Inflated { claimed, .. }) if claimed == 1 << 32
    ));
}

#[test]
fn other_files_are_refused_in_words() {
    let tensor = View {
        storage: 0,
        offset: 0,
        shape: vec![1],
        stride: vec![1],
    };
    let root = Item::Dict(vec![(
        "blocks.0.attn.qkv.weight".to_owned(),
        Item::View(tensor),
    )]);
    let error = read(save(&root, &[1.0])).expect_err("no ResNet");
    assert!(
        error.to_string().contains("blocks.0.attn.qkv.weight"),
        "{error}"
    );
    for bytes in [&b""[..], b"\x89PNG\r\n", b"PK\x03\x04 and no more"] {
        let error = read(bytes.to_vec()).expect_err("no weights");
        assert!(matches!(error, ImportError::Format { .. }), "{error:?}");
    }
}

fn small_file() -> Vec<u8> {
    let tensors = network(&encoder(Depth::D18, 0.015625), None);
    let (entries, storage) = views(&tensors, |name| Some(name.to_owned()));
    save(&Item::Dict(entries), &storage)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = read(bytes.clone());
        // The same as a pickle.
        let pickle = [&[0x80, 2][..], &bytes, b"."].concat();
        let _ = read(pickle);
    }

    #[test]
    fn no_damage_makes_the_reader_panic(
        places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut file = small_file();
        // Most of the damage goes to the pickle, which comes first.
        let head = file.len().min(40_000);
        for (place, byte) in places {
            file[place.index(head)] = byte;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        let _ = read(file);
    }
}
