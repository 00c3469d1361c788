use diptych_common::checkpoint::{Manifest, ManifestError, PhaseWord};
use diptych_common::digest::Digest;
use diptych_common::spec::{Depth, EncoderSpec, MaxPool};
use serde_json::{Value, json};

/// A file as version 1 wrote it. It must load for ever.
const GOLDEN: &str = include_str!("../golden/manifest-1.json");

fn changed(pointer: &str, value: Value) -> Result<Manifest, ManifestError> {
    let mut document: Value = serde_json::from_str(GOLDEN).expect("JSON");
    *document
        .pointer_mut(pointer)
        .unwrap_or_else(|| panic!("{pointer} is in the file")) = value;
    Manifest::parse(document.to_string().as_bytes())
}

#[test]
fn the_first_version_still_loads() {
    let manifest = Manifest::parse(GOLDEN.as_bytes()).expect("loads");
    assert_eq!(manifest.kind, PhaseWord::Finetune);
    assert_eq!(
        manifest.key().to_string(),
        "digits-0a1b2c/03-tuned-0/step-000000000120-a000007"
    );
    assert_eq!(manifest.bytes(), 5544);
    let (bytes, digest) = manifest.encode().expect("encodes");
    assert_eq!(digest, Digest::of(&bytes));
    assert_eq!(Manifest::parse(&bytes), Ok(manifest));
}

#[test]
fn networks_of_later_releases_are_written_without_touching_the_earlier_ones() {
    let old = Manifest::parse(GOLDEN.as_bytes()).expect("loads");
    let text = |manifest: &Manifest| String::from_utf8(manifest.encode().expect("encodes").0);
    for word in ["selective_kernel", "max_pool"] {
        assert!(!text(&old).expect("text").contains(word), "{word}");
    }
    let mut new = old;
    new.network.encoder = EncoderSpec {
        selective_kernel: true,
        max_pool: MaxPool::Tensorflow,
        ..EncoderSpec::torchvision(Depth::D152)
    };
    let written = text(&new).expect("text");
    assert!(written.contains("\"max_pool\": \"tensorflow\"") && written.contains("152"));
    assert_eq!(Manifest::parse(written.as_bytes()), Ok(new));
    let refused = changed("/network/encoder/depth", json!(19));
    assert!(
        matches!(&refused, Err(ManifestError::Form { reason }) if reason.contains("19 is not")),
        "{refused:?}"
    );
}

#[test]
fn other_versions_and_forms_are_named() {
    assert_eq!(
        changed("/version", json!(2)),
        Err(ManifestError::Version { found: 2 })
    );
    assert!(matches!(
        Manifest::parse(b"{}"),
        Err(ManifestError::Form { .. })
    ));
    assert!(matches!(
        Manifest::parse(b"\xff"),
        Err(ManifestError::Form { .. })
    ));
    assert!(matches!(
        Manifest::parse(&GOLDEN.as_bytes()[..900]),
        Err(ManifestError::Form { .. })
    ));
    let unknown = GOLDEN.replacen("\"world\"", "\"extra\": 1, \"world\"", 1);
    assert!(matches!(
        Manifest::parse(unknown.as_bytes()),
        Err(ManifestError::Form { .. })
    ));
}

#[test]
fn contradictions_are_refused() {
    let table = [
        ("/step", json!(121)),
        ("/tensors/0/shard", json!(2)),
        ("/tensors/0/range", json!([0, 2591])),
        ("/tensors/0/range", json!([2592, 0])),
        ("/tensors/0/range", json!([100, 2692])),
        ("/tensors/0/shape", json!([u64::MAX, 3])),
        ("/tensors/0/name", json!("bn1.running_mean")),
        ("/tensors/2/range", json!([95, 2687])),
        (
            "/objects/0/key",
            json!("other-0a1b2c/03-tuned-0/step-000000000120-a000007/shard-00000.safetensors"),
        ),
        (
            "/objects/0/key",
            json!("digits-0a1b2c/03-tuned-0/step-000000000120-a000007/../x"),
        ),
        (
            "/objects/0/key",
            json!("digits-0a1b2c/03-tuned-0/step-000000000120-a000007/shard-00001.safetensors"),
        ),
        ("/objects/0/size", json!(10)),
    ];
    for (pointer, value) in table {
        let found = changed(pointer, value.clone());
        assert!(
            matches!(found, Err(ManifestError::Contradiction { .. })),
            "{pointer} {value}: {found:?}"
        );
    }
    let mut manifest = Manifest::parse(GOLDEN.as_bytes()).expect("loads");
    manifest.results.insert("loss".to_owned(), f64::NAN);
    assert!(matches!(
        manifest.encode(),
        Err(ManifestError::Contradiction { .. })
    ));
}
