//! A writer of `.pth` files: the zip archive and the pickle (protocol 2) that `torch.save` makes.

use std::io::Write as _;

use zip::write::SimpleFileOptions;

/// What a pickle holds.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    /// An `OrderedDict`.
    Dict(Vec<(String, Item)>),
    /// A view of a storage.
    View(View),
    /// A whole number.
    Number(i32),
    /// A call of a global with one text, as a malicious file would hold.
    Call(&'static str, &'static str, &'static str),
}

/// A tensor: a view of a storage, all counted in elements.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// Index of the storage.
    pub(crate) storage: usize,
    pub(crate) offset: u64,
    pub(crate) shape: Vec<u64>,
    pub(crate) stride: Vec<u64>,
}

/// Elements that views share.
#[derive(Debug, Clone)]
pub(crate) enum Storage {
    Float(Vec<f32>),
    Long(Vec<i64>),
}

impl Storage {
    /// Class and number of elements.
    fn described(&self) -> (&'static str, usize) {
        match self {
            Self::Float(numbers) => ("FloatStorage", numbers.len()),
            Self::Long(numbers) => ("LongStorage", numbers.len()),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Float(numbers) => numbers.iter().flat_map(|n| n.to_le_bytes()).collect(),
            Self::Long(numbers) => numbers.iter().flat_map(|n| n.to_le_bytes()).collect(),
        }
    }
}

/// The file.
pub(crate) fn file(root: &Item, storages: &[Storage]) -> Vec<u8> {
    let mut pickle = vec![0x80, 2];
    put(&mut pickle, root, storages);
    pickle.push(b'.');
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut entry = |name: String, bytes: &[u8]| {
        zip.start_file(name, stored).expect("a zip file in memory");
        zip.write_all(bytes).expect("a zip file in memory");
    };
    entry("archive/data.pkl".to_owned(), &pickle);
    entry("archive/byteorder".to_owned(), b"little");
    for (key, storage) in storages.iter().enumerate() {
        entry(format!("archive/data/{key}"), &storage.bytes());
    }
    entry("archive/version".to_owned(), b"3\n");
    zip.finish().expect("a zip file in memory").into_inner()
}

fn put(out: &mut Vec<u8>, item: &Item, storages: &[Storage]) {
    match item {
        Item::Dict(entries) => {
            global(out, "collections", "OrderedDict");
            out.extend(b")R(");
            for (key, value) in entries {
                text(out, key);
                put(out, value, storages);
            }
            out.push(b'u');
        }
        Item::Number(number) => int(out, *number as u64),
        Item::Call(module, name, argument) => {
            global(out, module, name);
            text(out, argument);
            out.extend(b"\x85R");
        }
        Item::View(view) => {
            global(out, "torch._utils", "_rebuild_tensor_v2");
            out.extend(b"((");
            text(out, "storage");
            let (class, length) = storages[view.storage].described();
            global(out, "torch", class);
            text(out, &view.storage.to_string());
            text(out, "cpu");
            int(out, length as u64);
            out.extend(b"tQ");
            int(out, view.offset);
            tuple(out, &view.shape);
            tuple(out, &view.stride);
            out.push(0x89);
            global(out, "collections", "OrderedDict");
            out.extend(b")RtR");
        }
    }
}

fn global(out: &mut Vec<u8>, module: &str, name: &str) {
    out.extend(format!("c{module}\n{name}\n").as_bytes());
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

fn int(out: &mut Vec<u8>, number: u64) {
    out.push(b'J');
    out.extend((number as u32).to_le_bytes());
}

fn tuple(out: &mut Vec<u8>, numbers: &[u64]) {
    out.push(b'(');
    numbers.iter().for_each(|number| int(out, *number));
    out.push(b't');
}
