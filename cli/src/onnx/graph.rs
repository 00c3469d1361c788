//! A graph that grows node by node; every value is named after the node that makes it.

use std::collections::BTreeMap;

use diptych_common::checkpoint::{Dtype, TensorBytes, Tensors};
use prost::bytes::Bytes;

use super::OnnxError;
use super::schema::{
    AttributeProto, AttributeType, DataType, Dimension, DimensionProto, GraphProto, NodeProto,
    TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};

/// A value of the graph, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Value(String);

/// An attribute of a node.
#[derive(Debug, Clone, Copy)]
pub(super) enum Attribute<'a> {
    Float(f32),
    Int(i64),
    Ints(&'a [i64]),
    Word(&'a str),
}

/// Nodes so far, and the constants that they read.
pub(super) struct Graph<'a> {
    tensors: &'a Tensors,
    nodes: Vec<NodeProto>,
    constants: BTreeMap<String, TensorProto>,
}

impl<'a> Graph<'a> {
    /// A graph whose constants are `tensors`.
    pub(super) fn new(tensors: &'a Tensors) -> Self {
        Self {
            tensors,
            nodes: Vec::new(),
            constants: BTreeMap::new(),
        }
    }

    /// An input of the graph.
    pub(super) fn input(name: &str) -> Value {
        Value(name.to_owned())
    }

    /// A tensor of the network, in float32.
    pub(super) fn tensor(&mut self, name: &str) -> Result<Value, OnnxError> {
        if !self.constants.contains_key(name) {
            let tensor = self.tensors.get(name);
            let tensor = tensor.ok_or_else(|| OnnxError::Missing(name.to_owned()))?;
            let constant = TensorProto {
                dims: tensor.shape.iter().map(|dim| *dim as i64).collect(),
                data_type: DataType::Float.into(),
                name: name.to_owned(),
                raw_data: float32(name, tensor)?,
            };
            self.constants.insert(name.to_owned(), constant);
        }
        Ok(Value(name.to_owned()))
    }

    /// Zeros that the checkpoint has no tensor for.
    pub(super) fn zeros(&mut self, name: &str, length: u64) -> Value {
        let constant = TensorProto {
            dims: vec![length as i64],
            data_type: DataType::Float.into(),
            name: name.to_owned(),
            raw_data: vec![0_u8; 4 * length as usize].into(),
        };
        self.constants.insert(name.to_owned(), constant);
        Value(name.to_owned())
    }

    /// A list of whole numbers, for operators that take sizes as an input.
    pub(super) fn sizes(&mut self, name: &str, sizes: &[i64]) -> Value {
        let bytes: Vec<u8> = sizes.iter().flat_map(|size| size.to_le_bytes()).collect();
        let constant = TensorProto {
            dims: vec![sizes.len() as i64],
            data_type: DataType::Int64.into(),
            name: name.to_owned(),
            raw_data: bytes.into(),
        };
        self.constants.insert(name.to_owned(), constant);
        Value(name.to_owned())
    }

    /// A node with one output, which has the node's name.
    pub(super) fn node(
        &mut self,
        operator: &str,
        name: &str,
        inputs: &[&Value],
        attributes: &[(&str, Attribute<'_>)],
    ) -> Value {
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|value| value.0.clone()).collect(),
            output: vec![name.to_owned()],
            name: name.to_owned(),
            op_type: operator.to_owned(),
            attribute: attributes.iter().map(attribute).collect(),
        });
        Value(name.to_owned())
    }

    /// The two halves of the channels.
    pub(super) fn halves(&mut self, name: &str, value: &Value, half: u64) -> [Value; 2] {
        let sizes = self.sizes(&format!("{name}.sizes"), &[half as i64; 2]);
        let outputs = [0, 1].map(|part| format!("{name}.{part}"));
        self.nodes.push(NodeProto {
            input: vec![value.0.clone(), sizes.0],
            output: outputs.to_vec(),
            name: name.to_owned(),
            op_type: "Split".to_owned(),
            attribute: vec![attribute(&("axis", Attribute::Int(1)))],
        });
        outputs.map(Value)
    }

    /// The graph, with what goes in and what comes out: `batch` rows of these sizes.
    pub(super) fn finish(
        self,
        name: &str,
        input: (&Value, &[u64]),
        outputs: &[(Value, Vec<u64>)],
    ) -> GraphProto {
        GraphProto {
            node: self.nodes,
            name: name.to_owned(),
            initializer: self.constants.into_values().collect(),
            input: vec![described(input.0, input.1)],
            output: outputs
                .iter()
                .map(|(value, sizes)| described(value, sizes))
                .collect(),
        }
    }
}

fn attribute((name, value): &(&str, Attribute<'_>)) -> AttributeProto {
    let mut made = AttributeProto {
        name: (*name).to_owned(),
        ..AttributeProto::default()
    };
    let kind = match *value {
        Attribute::Float(number) => {
            made.f = Some(number);
            AttributeType::Float
        }
        Attribute::Int(number) => {
            made.i = Some(number);
            AttributeType::Int
        }
        Attribute::Ints(numbers) => {
            made.ints = numbers.to_vec();
            AttributeType::Ints
        }
        Attribute::Word(word) => {
            made.s = Some(word.as_bytes().to_vec());
            AttributeType::String
        }
    };
    made.set_type(kind);
    made
}

fn described(value: &Value, sizes: &[u64]) -> ValueInfoProto {
    let batch = Dimension::Free("batch".to_owned());
    let fixed = sizes.iter().map(|size| Dimension::Fixed(*size as i64));
    let dim = std::iter::once(batch)
        .chain(fixed)
        .map(|value| DimensionProto { value: Some(value) });
    let tensor = TensorTypeProto {
        elem_type: DataType::Float.into(),
        shape: Some(TensorShapeProto { dim: dim.collect() }),
    };
    ValueInfoProto {
        name: value.0.clone(),
        r#type: Some(TypeProto {
            tensor_type: Some(tensor),
        }),
    }
}

fn float32(name: &str, tensor: &TensorBytes) -> Result<Bytes, OnnxError> {
    match tensor.dtype {
        Dtype::F32 => Ok(tensor.bytes.clone()),
        Dtype::F64 => {
            let (numbers, _) = tensor.bytes.as_chunks::<8>();
            let rounded = numbers
                .iter()
                .flat_map(|number| (f64::from_le_bytes(*number) as f32).to_le_bytes());
            Ok(rounded.collect::<Vec<u8>>().into())
        }
        other => Err(OnnxError::Dtype {
            name: name.to_owned(),
            dtype: format!("{other:?}"),
        }),
    }
}
