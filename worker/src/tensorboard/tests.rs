//! Event files read back by a reader of their own: framing, checksums and protobuf by hand.

use std::collections::BTreeMap;
use std::path::Path;

use diptych_common::checkpoint::EventsKey;
use diptych_common::ids::{Attempt, PhaseIndex};
use diptych_proto::tensorboard::event::What;
use diptych_proto::tensorboard::{Event, Summary};
use proptest::prelude::*;

use super::backlog::{Backlog, Segment};

/// What one record says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Said {
    Version(String),
    Start,
    Scalar(String, f32),
    Picture {
        tag: String,
        width: u64,
        height: u64,
        png: Vec<u8>,
    },
}

/// A record with its step.
pub(crate) type Found = (i64, Said);

/// A field of a message: its number and what stands in it.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// CRC-32C bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (if crc & 1 == 1 { 0x82f6_3b78 } else { 0 });
        }
    }
    !crc
}

fn masked(bytes: &[u8]) -> u32 {
    let crc = crc32c(bytes);
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(count);
    *bytes = rest;
    taken
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)[0];
        value |= u64::from(byte & 127) << shift;
        if byte < 128 {
            break;
        }
    }
    value
}

fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let field = match tag & 7 {
            0 => Field::Number(varint(&mut bytes)),
            1 => Field::Number(u64::from_le_bytes(take(&mut bytes, 8).try_into().unwrap())),
            2 => {
                let length = varint(&mut bytes) as usize;
                Field::Bytes(take(&mut bytes, length))
            }
            5 => Field::Number(u32::from_le_bytes(take(&mut bytes, 4).try_into().unwrap()).into()),
            other => panic!("wire type {other}"),
        };
        found.push((tag >> 3, field));
    }
    found
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn value(message: &[u8]) -> Said {
    let mut tag = String::new();
    let mut said = None;
    for (number, field) in fields(message) {
        match (number, field) {
            (1, Field::Bytes(bytes)) => tag = text(bytes),
            (2, Field::Number(bits)) => {
                said = Some(Said::Scalar(tag.clone(), f32::from_bits(bits as u32)));
            }
            (4, Field::Bytes(image)) => {
                let (mut width, mut height, mut png) = (0, 0, Vec::new());
                for (number, field) in fields(image) {
                    match (number, field) {
                        (1, Field::Number(rows)) => height = rows,
                        (2, Field::Number(columns)) => width = columns,
                        (3, Field::Number(channels)) => assert_eq!(channels, 3),
                        (4, Field::Bytes(bytes)) => png = bytes.to_vec(),
                        _ => panic!("field {number} of an image"),
                    }
                }
                let tag = tag.clone();
                said = Some(Said::Picture {
                    tag,
                    width,
                    height,
                    png,
                });
            }
            _ => panic!("field {number} of a value"),
        }
    }
    said.unwrap()
}

/// Every record of a file, its checksums held.
pub(crate) fn read(mut file: &[u8]) -> Vec<Found> {
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    let mut found = Vec::new();
    while !file.is_empty() {
        let length = take(&mut file, 8);
        assert_eq!(
            number(take(&mut file, 4)),
            masked(length),
            "checksum of a length"
        );
        let message = take(
            &mut file,
            u64::from_le_bytes(length.try_into().unwrap()) as usize,
        );
        assert_eq!(
            number(take(&mut file, 4)),
            masked(message),
            "checksum of a message"
        );
        let (mut step, mut wall, mut said) = (0, 0.0, Vec::new());
        for (number, field) in fields(message) {
            match (number, field) {
                (1, Field::Number(bits)) => wall = f64::from_bits(bits),
                (2, Field::Number(number)) => step = number as i64,
                (3, Field::Bytes(bytes)) => said.push(Said::Version(text(bytes))),
                (5, Field::Bytes(summary)) => {
                    for (number, field) in fields(summary) {
                        match (number, field) {
                            (1, Field::Bytes(bytes)) => said.push(value(bytes)),
                            _ => panic!("field {number} of a summary"),
                        }
                    }
                }
                (7, Field::Bytes(log)) => match fields(log)[..] {
                    [(1, Field::Number(1))] => said.push(Said::Start),
                    _ => panic!("a session that does not start"),
                },
                _ => panic!("field {number} of an event"),
            }
        }
        assert!(wall > 1.5e9, "{wall} s since 1970");
        found.extend(said.into_iter().map(|said| (step, said)));
    }
    found
}

/// What the files of a folder say, file by file in the order of their names.
pub(crate) fn read_folder(folder: &Path) -> Vec<Vec<Found>> {
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| read(&std::fs::read(path).unwrap()))
        .collect()
}

fn backlog(most: usize) -> Backlog {
    let key = EventsKey {
        job: "tiny-0a1b2c".parse().unwrap(),
        phase: PhaseIndex::new(0),
        name: "pre".parse().unwrap(),
        attempt: Attempt::new(1),
        segment: 0,
    };
    Backlog::new(key, most)
}

fn event(step: i64) -> Event {
    let number = diptych_proto::tensorboard::summary::Value {
        tag: "loss".to_owned(),
        value: Some(diptych_proto::tensorboard::summary::value::Value::SimpleValue(step as f32)),
    };
    let summary = Summary {
        value: vec![number],
    };
    Event {
        wall_time: 1.7e9,
        step,
        what: Some(What::Summary(summary)),
    }
}

fn steps(segment: &Segment) -> Vec<i64> {
    let found = read(&segment.bytes);
    assert_eq!(found[0], (0, Said::Version("brain.Event:2".to_owned())));
    found[1..].iter().map(|(step, _)| *step).collect()
}

#[test]
fn checksums_are_castagnolis() {
    // RFC 3720 §B.4.
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}

#[test]
fn a_refused_segment_comes_again_before_later_ones() {
    let mut backlog = backlog(1 << 20);
    assert_eq!(backlog.next(), None);
    backlog.add(&event(1));
    backlog.close();
    backlog.add(&event(2));
    let first = backlog.next().unwrap();
    assert_eq!(steps(&first), [1]);
    assert_eq!(backlog.next(), None, "one at a time");
    backlog.written(false);
    assert_eq!(
        backlog.next(),
        None,
        "a dead store is not asked at every step"
    );
    backlog.close();
    assert_eq!(backlog.next(), Some(first), "the same file");
    backlog.written(true);
    let second = backlog.next().unwrap();
    assert_eq!((steps(&second), second.key.segment), (vec![2], 1));
    backlog.written(true);
    assert!(backlog.is_empty() && backlog.dropped() == 0);
}

#[derive(Debug, Clone)]
enum Move {
    Add,
    Close,
    Next,
    Written(bool),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        4 => Just(Move::Add),
        2 => Just(Move::Close),
        2 => Just(Move::Next),
        2 => any::<bool>().prop_map(Move::Written),
    ];
    prop::collection::vec(one, 0..200)
}

proptest! {
    #[test]
    fn memory_is_bounded_and_what_arrives_is_in_order(moves in moves(), most in 100_usize..2_000) {
        let mut backlog = backlog(most);
        let (mut step, mut writing, mut arrived) = (0, None::<Segment>, Vec::new());
        for one in moves {
            match one {
                Move::Add => {
                    step += 1;
                    backlog.add(&event(step));
                }
                Move::Close => backlog.close(),
                Move::Next => if let Some(segment) = backlog.next() {
                    prop_assert!(writing.replace(segment).is_none(), "two at once");
                },
                Move::Written(well) => if let Some(segment) = writing.take() {
                    backlog.written(well);
                    if well {
                        arrived.extend(steps(&segment));
                    }
                },
            }
            let in_flight = writing.as_ref().map_or(0, |segment| segment.bytes.len());
            prop_assert!(backlog.bytes() <= most.max(in_flight), "{} bytes wait", backlog.bytes());
        }
        prop_assert!(arrived.is_sorted_by(|a, b| a < b), "{arrived:?}");
        // Everything is somewhere: in the store, given up, or still to come.
        if let Some(segment) = writing.take() {
            backlog.written(true);
            arrived.extend(steps(&segment));
        }
        backlog.close();
        while let Some(segment) = backlog.next() {
            backlog.written(true);
            arrived.extend(steps(&segment));
        }
        prop_assert_eq!(arrived.len() as u64 + backlog.dropped(), step as u64);
    }
}

/// What remains for a reader that forgets, at a start, what was written of later steps: TensorBoard's rule.
pub(crate) fn as_one_run(files: &[Vec<Found>]) -> BTreeMap<String, Vec<(i64, f32)>> {
    let mut run: BTreeMap<String, Vec<(i64, f32)>> = BTreeMap::new();
    for (step, said) in files.iter().flatten() {
        match said {
            Said::Start => run
                .values_mut()
                .for_each(|points| points.retain(|(other, _)| other < step)),
            Said::Scalar(tag, value) => run.entry(tag.clone()).or_default().push((*step, *value)),
            Said::Version(_) | Said::Picture { .. } => {}
        }
    }
    run
}
