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
use parquet::file::metadata::{KeyValue, ParquetMetaDataReader, ParquetMetaDataWriter};
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

/// What a hub writes into the metadata of a file whose labels have names.
const HUB_CLASSES: &str =
    r#"{"info": {"features": {"label": {"names": ["cat", "dog", "owl"], "_type": "ClassLabel"}}}}"#;

fn write_parquet(path: &Path, compression: Compression, pictures: &[(String, i64, Vec<u8>)]) {
    write_parquet_with(path, compression, pictures, None);
}

fn write_parquet_with(
    path: &Path,
    compression: Compression,
    pictures: &[(String, i64, Vec<u8>)],
    hub: Option<&str>,
) {
    let schema = "message hub { optional group image { optional binary bytes; optional binary path (UTF8); } optional int64 label; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(
        WriterProperties::builder()
            .set_compression(compression)
            .set_key_value_metadata(
                hub.map(|text| vec![KeyValue::new("huggingface".to_owned(), text.to_owned())]),
            )
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

#[tokio::test]
async fn labels_are_checked_before_stated_names_move_them() {
    let dir = tempfile::tempdir().unwrap();
    let named = |path: &Path, pictures: &[(String, i64, Vec<u8>)]| {
        write_parquet_with(path, Compression::SNAPPY, pictures, Some(HUB_CLASSES));
    };
    let stated = |path: &Path| DataSpec {
        classes: Some(["owl", "cat", "dog"].map(str::to_owned).to_vec()),
        ..spec(url(path))
    };
    let file = dir.path().join("good.parquet");
    named(&file, &pictures());
    let index = Index::open(&stated(&file)).await.unwrap();
    // The file says cat, dog, owl; the spec puts owl first.
    let labels: Vec<Option<u32>> = (0..3).map(|id| index.label(SampleId::new(id))).collect();
    assert_eq!(labels, [Some(1), Some(2), Some(0)]);
    for wrong in [-1, 3] {
        let mut all = pictures();
        all[7].1 = wrong;
        let file = dir.path().join(format!("wrong{wrong}.parquet"));
        named(&file, &all);
        match Index::open(&stated(&file)).await {
            Err(DataError::Labels { problems, .. }) => assert!(
                problems.len() == 1
                    && problems[0].contains("07")
                    && problems[0].contains(&wrong.to_string()),
                "{problems:?}"
            ),
            other => panic!("label {wrong} is refused, not {other:?}"),
        }
    }
}

#[tokio::test]
async fn labels_that_are_all_minus_one_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = pictures();
    all.iter_mut().for_each(|row| row.1 = -1);
    let file = dir.path().join("hub.parquet");
    write_parquet_with(&file, Compression::SNAPPY, &all, Some(HUB_CLASSES));
    let index = Index::open(&spec(url(&file))).await.unwrap();
    assert!(!index.labelled() && index.classes().is_empty());
    assert_eq!(index.label(SampleId::new(0)), None);
}

#[tokio::test]
async fn a_missing_shard_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for number in [0, 1, 3] {
        let name = format!("train-{number:05}-of-00005.parquet");
        write_parquet(&dir.path().join(name), Compression::SNAPPY, &pictures());
        write_tar(&dir.path().join(format!("s-{number:06}.tar")), &pictures());
    }
    for (selection, wanted) in [
        (
            "",
            vec![
                "train-00002-of-00005.parquet",
                "train-00004-of-00005.parquet",
            ],
        ),
        (
            "*.parquet",
            vec![
                "train-00002-of-00005.parquet",
                "train-00004-of-00005.parquet",
            ],
        ),
        ("train-00002*", vec![]),
        ("s-*.tar", vec!["s-000002.tar"]),
    ] {
        let found = open_at(dir.path().join(selection)).await;
        match found {
            Err(DataError::MissingShards { names, .. }) => assert_eq!(names, wanted, "{selection}"),
            Err(DataError::Missing { .. }) => assert!(wanted.is_empty(), "{selection}"),
            other => panic!("{selection}: {other:?}"),
        }
    }
    // Naming a part of a run is no accident.
    assert!(
        open_at(dir.path().join("train-00001-of-00005.parquet"))
            .await
            .is_ok()
    );
    assert!(open_at(dir.path().join("train-00001*")).await.is_ok());
}

#[tokio::test]
async fn what_was_lost_since_the_listing_is_a_bad_image() {
    let dir = tempfile::tempdir().unwrap();
    for (name, _, data) in pictures() {
        std::fs::write(dir.path().join(format!("{name}.png")), data).unwrap();
    }
    std::fs::write(dir.path().join("00.png"), b"").unwrap();
    let index = Index::open(&spec(url(dir.path()))).await.unwrap();
    std::fs::remove_file(dir.path().join("03.png")).unwrap();
    let whole = std::fs::read(dir.path().join("05.png")).unwrap();
    std::fs::write(dir.path().join("05.png"), &whole[..20]).unwrap();
    let ids: Vec<SampleId> = (0..12).map(SampleId::new).collect();
    for (id, answer) in ids.iter().zip(index.read(&ids).await) {
        let bad = [0, 3, 5].contains(&id.get());
        match answer {
            Ok(_) => assert!(!bad, "{id}"),
            Err(DataError::Sample { name, .. }) => {
                assert!(bad && name == format!("{:02}.png", id.get()), "{name}")
            }
            Err(other) => panic!("{id}: {other}"),
        }
    }

    // A shard that lost its end keeps what comes before.
    let file = dir.path().join("cut.tar");
    write_tar(&file, &pictures());
    let index = Index::open(&spec(url(&file))).await.unwrap();
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let answers = index.read(&ids).await;
    assert!(answers[0].is_ok());
    assert!(
        matches!(answers[11], Err(DataError::Sample { .. })),
        "{:?}",
        answers[11]
    );
}

#[tokio::test]
async fn a_corrupt_page_names_its_file_and_row_group() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hub.parquet");
    write_parquet(&file, Compression::ZSTD(ZstdLevel::default()), &pictures());
    let index = Index::open(&spec(url(&file))).await.unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[4..60].fill(0xa5);
    std::fs::write(&file, bytes).unwrap();
    let answer = index.read(&[SampleId::new(0)]).await.remove(0);
    match answer {
        Err(DataError::Shard { object, reason }) => assert!(
            object.ends_with("hub.parquet") && reason.contains("row group 0"),
            "{object}: {reason}"
        ),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_row_count_that_no_file_can_hold_is_refused_before_memory_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hub.parquet");
    write_parquet(&file, Compression::UNCOMPRESSED, &pictures());
    let bytes = std::fs::read(&file).unwrap();
    let mut reader = ParquetMetaDataReader::new();
    reader
        .try_parse(&bytes::Bytes::from(bytes.clone()))
        .unwrap();
    let footer = reader.finish().unwrap();
    for (rows, values) in [(1 << 40, None), (1 << 40, Some(1 << 40))] {
        let groups = footer.row_groups().iter().map(|group| {
            let columns = group
                .columns()
                .iter()
                .map(|column| {
                    let values = values.unwrap_or_else(|| column.num_values());
                    column
                        .clone()
                        .into_builder()
                        .set_num_values(values)
                        .build()
                        .unwrap()
                })
                .collect();
            group
                .clone()
                .into_builder()
                .set_num_rows(rows)
                .set_column_metadata(columns)
                .build()
                .unwrap()
        });
        let claimed = footer
            .clone()
            .into_builder()
            .set_row_groups(groups.collect())
            .build();
        let mut file_bytes = bytes.clone();
        ParquetMetaDataWriter::new(&mut file_bytes, &claimed)
            .finish()
            .unwrap();
        std::fs::write(&file, &file_bytes).unwrap();
        match Index::open(&spec(url(&file))).await {
            Err(DataError::Shard { reason, .. }) => assert!(reason.contains("states"), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn any_path_can_be_a_url() {
    let dir = tempfile::tempdir().unwrap();
    let odd = dir.path().join("100% #1?");
    std::fs::create_dir(&odd).unwrap();
    let open = |path: std::path::PathBuf| async move {
        Index::open(&spec(diptych_common::store::file_url(&path).unwrap())).await
    };
    assert!(matches!(
        open(odd.clone()).await,
        Err(DataError::Empty { .. })
    ));
    std::fs::write(odd.join("a.png"), png(7)).unwrap();
    assert_eq!(open(odd).await.unwrap().len(), 1);
}
