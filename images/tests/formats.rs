//! One set of pictures in every format that is read: the same names, labels and bytes come back.

// The files written here are the test's own: failing to write them is failing the test.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use diptych_common::ids::DataName;
use diptych_common::spec::{DataFormat, DataSpec};
use diptych_images::decode::{DecodeError, decode};
use diptych_images::inspect::inspect;
use diptych_images::shard::{DataError, Index, SampleId};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

fn png(shade: u8) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 4, 3);
    encoder.set_color(png::ColorType::Rgb);
    encoder
        .write_header()
        .unwrap()
        .write_image_data(&[shade; 36])
        .unwrap();
    file
}

fn pictures() -> Vec<(String, i64, Vec<u8>)> {
    (0..12u8)
        .map(|i| (format!("{i:02}"), i64::from(i % 3), png(20 * i)))
        .collect()
}

fn spec(url: String) -> DataSpec {
    DataSpec {
        name: "train".parse::<DataName>().unwrap(),
        url,
        format: DataFormat::Auto,
        image_column: None,
        label_column: None,
        classes: None,
        limit: None,
    }
}

fn url(path: &Path) -> String {
    format!("file://{}", path.display())
}

fn write_tar(path: &Path, pictures: &[(String, i64, Vec<u8>)]) {
    let mut tar = tar::Builder::new(std::fs::File::create(path).unwrap());
    let mut add = |name: String, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, data).unwrap();
    };
    for (name, label, data) in pictures {
        add(format!("{name}.png"), data);
        add(format!("{name}.cls"), label.to_string().as_bytes());
    }
    tar.finish().unwrap();
}

fn write_parquet(path: &Path, compression: Compression, pictures: &[(String, i64, Vec<u8>)]) {
    let schema = "message hub { optional group image { optional binary bytes; optional binary path (UTF8); } optional int64 label; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(
        WriterProperties::builder()
            .set_compression(compression)
            .build(),
    );
    let mut writer =
        SerializedFileWriter::new(std::fs::File::create(path).unwrap(), schema, properties)
            .unwrap();
    for rows in pictures.chunks(5) {
        let mut group = writer.next_row_group().unwrap();
        let texts: [Vec<ByteArray>; 2] = [
            rows.iter().map(|row| row.2.clone().into()).collect(),
            rows.iter()
                .map(|row| row.0.as_bytes().to_vec().into())
                .collect(),
        ];
        for values in texts {
            let mut column = group.next_column().unwrap().unwrap();
            column
                .typed::<ByteArrayType>()
                .write_batch(&values, Some(&vec![2; rows.len()]), None)
                .unwrap();
            column.close().unwrap();
        }
        let labels: Vec<i64> = rows.iter().map(|row| row.1).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column
            .typed::<Int64Type>()
            .write_batch(&labels, Some(&vec![1; rows.len()]), None)
            .unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}

async fn check(index: &Index, names: impl Fn(&str) -> String) {
    let pictures = pictures();
    assert_eq!(index.len(), 12);
    assert_eq!(index.classes().len(), 3);
    // Backwards and twice: the answers are in the order of the question.
    let ids: Vec<SampleId> = (0..12).rev().chain([3]).map(SampleId::new).collect();
    for (id, bytes) in ids.iter().zip(index.read(&ids).await) {
        let (name, label, _) = pictures
            .iter()
            .find(|row| names(&row.0) == index.name(*id))
            .unwrap();
        let wanted = &pictures.iter().find(|row| row.0 == *name).unwrap().2;
        assert_eq!(bytes.unwrap(), wanted, "{name}");
        assert_eq!(index.label(*id), Some(*label as u32), "{name}");
    }
}

#[tokio::test]
async fn every_format_gives_the_same_samples() {
    let dir = tempfile::tempdir().unwrap();
    for (name, label, data) in pictures() {
        let folder = dir.path().join("folder").join(format!("class-{label}"));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), data).unwrap();
    }
    let index = Index::open(&spec(url(&dir.path().join("folder"))))
        .await
        .unwrap();
    assert_eq!(index.classes(), ["class-0", "class-1", "class-2"]);
    check(&index, |name| {
        format!("class-{}/{name}.png", name.parse::<u8>().unwrap() % 3)
    })
    .await;

    std::fs::create_dir(dir.path().join("tar")).unwrap();
    write_tar(&dir.path().join("tar/a-0.tar"), &pictures()[..7]);
    write_tar(&dir.path().join("tar/a-1.tar"), &pictures()[7..]);
    for selection in ["tar", "tar/a-*.tar", "tar/a-*"] {
        let index = Index::open(&spec(url(&dir.path().join(selection))))
            .await
            .unwrap();
        check(&index, str::to_owned).await;
    }

    let codecs = [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::ZSTD(ZstdLevel::default()),
        Compression::GZIP(Default::default()),
        Compression::LZ4_RAW,
        Compression::BROTLI(Default::default()),
    ];
    for (number, codec) in codecs.into_iter().enumerate() {
        let file = dir.path().join(format!("hub-{number}.parquet"));
        write_parquet(&file, codec, &pictures());
        let index = Index::open(&spec(url(&file))).await.unwrap();
        check(&index, str::to_owned).await;
    }
    let limited = DataSpec {
        limit: Some(4),
        ..spec(url(&dir.path().join("hub-0.parquet")))
    };
    assert_eq!(Index::open(&limited).await.unwrap().len(), 4);
}

#[tokio::test]
async fn unusable_sets_are_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let open = |path: &str| open_at(dir.path().join(path));
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    assert!(matches!(
        open("nowhere").await,
        Err(DataError::Missing { .. })
    ));
    assert!(matches!(
        open("part-*.tar").await,
        Err(DataError::Missing { .. })
    ));
    assert!(matches!(open("empty").await, Err(DataError::Empty { .. })));

    let mut wrong = pictures();
    wrong[4].1 = -1;
    wrong[5].1 = -7;
    write_tar(&dir.path().join("wrong.tar"), &wrong);
    match open("wrong.tar").await {
        Err(DataError::Labels { problems, .. }) => {
            assert!(
                problems.len() == 2 && problems[0].contains("04") && problems[1].contains("-7"),
                "{problems:?}"
            );
        }
        other => panic!("negative labels are refused, not {other:?}"),
    }
    let beyond = DataSpec {
        classes: Some(vec!["a".to_owned(), "b".to_owned()]),
        ..spec(url(&dir.path().join("wrong.tar")))
    };
    assert!(matches!(
        Index::open(&beyond).await,
        Err(DataError::Labels { .. })
    ));

    write_tar(&dir.path().join("cut.tar"), &pictures());
    let whole = std::fs::read(dir.path().join("cut.tar")).unwrap();
    std::fs::write(dir.path().join("cut.tar"), &whole[..600]).unwrap();
    assert!(matches!(
        open("cut.tar").await,
        Err(DataError::Shard { .. })
    ));
    std::fs::write(dir.path().join("junk.parquet"), b"PAR1 is not enough PAR1").unwrap();
    assert!(matches!(
        open("junk.parquet").await,
        Err(DataError::Shard { .. })
    ));
}

#[tokio::test]
async fn bad_images_are_counted_and_named() {
    let dir = tempfile::tempdir().unwrap();
    for (name, _, data) in pictures() {
        let mut file = std::fs::File::create(dir.path().join(format!("{name}.png"))).unwrap();
        let kept = if name == "03" { 40 } else { data.len() };
        file.write_all(&data[..kept]).unwrap();
    }
    std::fs::write(dir.path().join("99.jpg"), b"<html>not found</html>").unwrap();
    let index = Index::open(&spec(url(dir.path()))).await.unwrap();
    assert!(!index.labelled());
    let report = inspect(&index, u64::MAX, |_, _| {}).await.unwrap();
    assert_eq!((report.samples, report.decoded, report.bad), (13, 13, 2));
    let named: Vec<&str> = report
        .problems
        .iter()
        .map(|problem| problem.sample.as_str())
        .collect();
    assert_eq!(named, ["03.png", "99.jpg"]);
    assert_eq!(report.width.unwrap().median, 4);
}

#[test]
fn a_decompression_bomb_is_refused_before_memory_is_taken() {
    let mut file = Vec::new();
    let mut header = png::Encoder::new(&mut file, 60_000, 60_000);
    header.set_color(png::ColorType::Rgb);
    drop(header.write_header().unwrap());
    assert!(matches!(
        decode(&file),
        Err(DecodeError::TooLarge { .. }) | Err(DecodeError::Broken { .. })
    ));
    assert!(matches!(
        decode(b"GIF89a"),
        Err(DecodeError::Unknown { .. })
    ));
    assert!(matches!(
        decode(&[0xff, 0xd8, 0xff]),
        Err(DecodeError::Broken { .. })
    ));
}

async fn open_at(path: std::path::PathBuf) -> Result<Index, DataError> {
    Index::open(&spec(url(&path))).await
}
