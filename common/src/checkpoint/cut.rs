//! Tensors cut out of a shard that comes by in pieces: no more of it is kept than was asked for.

use bytes::Bytes;
use safetensors::tensor::Metadata;

use super::{Dtype, LoadError, TensorBytes, TensorEntry};

/// What is kept of one shard. Nothing that it finds counts before the shard's digest has been checked.
#[derive(Debug)]
pub(super) struct Cut<'a> {
    key: &'a str,
    wanted: Vec<(&'a TensorEntry, Vec<u8>)>,
    header: Header,
    /// Bytes of the shard that have come by.
    at: u64,
}

/// The eight bytes of length, and the description behind them.
#[derive(Debug)]
enum Header {
    Coming(Vec<u8>),
    Here { data: u64, table: Option<Metadata> },
}

impl<'a> Cut<'a> {
    pub(super) fn new(key: &'a str, wanted: &[&'a TensorEntry]) -> Self {
        let room = |entry: &&'a TensorEntry| {
            let [start, end] = entry.range;
            (*entry, Vec::with_capacity((end - start) as usize))
        };
        Self {
            key,
            wanted: wanted.iter().map(room).collect(),
            header: Header::Coming(Vec::new()),
            at: 0,
        }
    }

    /// The shard's next piece.
    pub(super) fn take(&mut self, piece: &[u8]) {
        let first = self.at;
        self.at += piece.len() as u64;
        if self.wanted.is_empty() {
            return;
        }
        if let Header::Coming(bytes) = &mut self.header {
            bytes.extend_from_slice(piece);
            let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
                return;
            };
            let length = u64::from_le_bytes(*length);
            let Some(table) = usize::try_from(length).ok().and_then(|n| rest.get(..n)) else {
                return;
            };
            self.header = Header::Here {
                data: 8 + length,
                table: serde_json::from_slice(table).ok(),
            };
        }
        let Header::Here { data, .. } = self.header else {
            return;
        };
        for (entry, bytes) in &mut self.wanted {
            let [start, end] = entry.range.map(|offset| offset.saturating_add(data));
            let (from, to) = (start.max(first), end.min(self.at));
            if from < to {
                bytes.extend_from_slice(&piece[(from - first) as usize..(to - first) as usize]);
            }
        }
    }

    /// The tensors.
    ///
    /// # Errors
    /// [`LoadError::Tensor`] where the shard describes one otherwise than the manifest.
    pub(super) fn finish(self) -> Result<Vec<(String, TensorBytes)>, LoadError> {
        let Self {
            key,
            wanted,
            header,
            ..
        } = self;
        let table = match header {
            Header::Here { table, .. } => table,
            Header::Coming(_) => None,
        };
        let tensor = |(entry, bytes): (&TensorEntry, Vec<u8>)| {
            let described = table.as_ref().and_then(|table| table.info(&entry.name));
            let same = described.is_some_and(|info| {
                let shape = info.shape.iter().map(|dim| *dim as u64);
                let (start, end) = info.data_offsets;
                Dtype::try_from(info.dtype) == Ok(entry.dtype)
                    && shape.eq(entry.shape.iter().copied())
                    && [start as u64, end as u64] == entry.range
                    && end - start == bytes.len()
            });
            if !same {
                return Err(LoadError::Tensor {
                    key: key.to_owned(),
                    tensor: entry.name.clone(),
                });
            }
            let tensor = TensorBytes {
                dtype: entry.dtype,
                shape: entry.shape.clone(),
                bytes: Bytes::from(bytes),
            };
            Ok((entry.name.clone(), tensor))
        };
        wanted.into_iter().map(tensor).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Role, TensorMeta, partition, shard};
    use super::*;

    #[test]
    fn pieces_of_any_size_give_the_same_tensors() {
        let meta = |name: &str, size| TensorMeta {
            name: name.to_owned(),
            dtype: Dtype::U8,
            shape: vec![size],
            role: Role::Weight,
        };
        let metas = [meta("a", 7), meta("b", 0), meta("c", 30), meta("d", 3)];
        let contents: Vec<Vec<u8>> = (1_u8..)
            .zip(&metas)
            .map(|(fill, meta)| vec![fill; meta.bytes() as usize])
            .collect();
        let parts: Vec<(&TensorMeta, &[u8])> = metas
            .iter()
            .zip(&contents)
            .map(|(meta, bytes)| (meta, bytes.as_slice()))
            .collect();
        let file = shard::encode(&parts).expect("encodes");
        let table = partition::table(&metas, 1);
        let wanted: Vec<&TensorEntry> = table.iter().filter(|entry| entry.name != "c").collect();
        for size in [1, 5, 8, 64, file.len()] {
            let mut cut = Cut::new("shard", &wanted);
            file.chunks(size).for_each(|piece| cut.take(piece));
            let found = cut.finish().expect("is there");
            let lengths: Vec<_> = found
                .iter()
                .map(|(name, tensor)| (name.as_str(), tensor.bytes.to_vec()))
                .collect();
            assert_eq!(
                lengths,
                [("a", vec![1; 7]), ("b", vec![]), ("d", vec![4; 3])],
                "pieces of {size}"
            );
        }
        let mut short = Cut::new("shard", &wanted);
        short.take(&file[..file.len() - 1]);
        assert!(matches!(short.finish(), Err(LoadError::Tensor { tensor, .. }) if tensor == "d"));
    }
}
