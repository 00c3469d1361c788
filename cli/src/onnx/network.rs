//! The network as nodes: what `common::network` lists, in the order of the forward pass, as it is in evaluation.

use diptych_common::checkpoint::{NetworkDescription, Tensors, export};
use diptych_common::network::{
    Block, ConvNorm, Convolution, Layers, NORM_EPSILON, Part, Selective, Shortcut, features,
};
use diptych_common::spec::{EncoderSpec, HeadSpec, MaxPool};

use super::OnnxError;
use super::graph::Attribute::{Float, Int, Ints, Word};
use super::graph::{Graph, Value};
use super::schema::GraphProto;

/// The graph of a network for square images of this side: `images` → `features`, and `logits` where there is a
/// classifier, or `projection` where there is a whole head instead.
pub(super) fn graph(
    network: &NetworkDescription,
    tensors: &Tensors,
    side: u32,
) -> Result<GraphProto, OnnxError> {
    let mut graph = Graph::new(tensors);
    let images = Graph::input("images");
    let encoded = encoder(&mut graph, &network.encoder, &images)?;
    let mut outputs = vec![(encoded.clone(), vec![features(&network.encoder)])];
    let layers = export::head_layers(tensors.keys());
    let mut top = encoded;
    if let Some(spec) = &network.head {
        let read = network
            .classifier
            .as_ref()
            .map_or(layers, |classifier| classifier.head_layer.min(layers));
        top = head(&mut graph, spec, read, top)?;
        if network.classifier.is_none() && read == spec.layers {
            let projection = graph.node("Identity", "projection", &[&top], &[]);
            outputs.push((projection, vec![u64::from(spec.dim)]));
        }
    }
    if let Some(classifier) = &network.classifier {
        let (weight, bias) = (graph.tensor("fc.weight")?, graph.tensor("fc.bias")?);
        let logits = graph.node(
            "Gemm",
            "logits",
            &[&top, &weight, &bias],
            &[("transB", Int(1))],
        );
        outputs.push((logits, vec![classifier.classes.len() as u64]));
    }
    let side = u64::from(side);
    Ok(graph.finish("diptych", (&images, &[3, side, side]), &outputs))
}

fn encoder(graph: &mut Graph<'_>, spec: &EncoderSpec, images: &Value) -> Result<Value, OnnxError> {
    let layers = Layers::of(spec);
    let mut x = images.clone();
    for part in &layers.stem {
        let normed = conv_norm(graph, part, &x)?;
        x = relu(graph, &part.norm, &normed);
    }
    if let Some(pool) = layers.max_pool {
        let padding = match pool {
            MaxPool::Torch => ("pads", Ints(&[1; 4])),
            MaxPool::Tensorflow => ("auto_pad", Word("SAME_UPPER")),
        };
        let window = [
            ("kernel_shape", Ints(&[3, 3])),
            ("strides", Ints(&[2, 2])),
            padding,
        ];
        x = graph.node("MaxPool", "maxpool", &[&x], &window);
    }
    for (index, part) in layers.blocks.iter().enumerate() {
        x = block(graph, &format!("block{index}"), part, &x)?;
    }
    let mean = graph.node("GlobalAveragePool", "avgpool", &[&x], &[]);
    Ok(graph.node("Flatten", "features", &[&mean], &[("axis", Int(1))]))
}

fn block(graph: &mut Graph<'_>, name: &str, block: &Block, x: &Value) -> Result<Value, OnnxError> {
    let mut y = x.clone();
    for (index, part) in block.path.iter().enumerate() {
        y = match part {
            Part::Plain(plain) => {
                let normed = conv_norm(graph, plain, &y)?;
                if index + 1 < block.path.len() {
                    relu(graph, &plain.norm, &normed)
                } else {
                    normed
                }
            }
            Part::Selective(kernel) => selective(graph, kernel, &y)?,
        };
    }
    let beside = match &block.shortcut {
        Some(cut) => shortcut(graph, cut, x)?,
        None => x.clone(),
    };
    let sum = graph.node("Add", &format!("{name}.sum"), &[&y, &beside], &[]);
    Ok(relu(graph, name, &sum))
}

/// Two streams, weighed channel by channel by the softmax of what their mean says.
fn selective(graph: &mut Graph<'_>, kernel: &Selective, x: &Value) -> Result<Value, OnnxError> {
    let normed = conv_norm(graph, &kernel.streams, x)?;
    let streams = relu(graph, &kernel.streams.norm, &normed);
    let name = &kernel.streams.conv.name;
    let half = kernel.streams.conv.output / 2;
    let [one, other] = graph.halves(&format!("{name}.streams"), &streams, half);
    let both = graph.node("Add", &format!("{name}.both"), &[&one, &other], &[]);
    let mean = graph.node("GlobalAveragePool", &format!("{name}.mean"), &[&both], &[]);
    let normed = conv_norm(graph, &kernel.squeeze, &mean)?;
    let squeezed = relu(graph, &kernel.squeeze.norm, &normed);
    let expanded = convolution(graph, &kernel.expand, &squeezed)?;
    // 0 keeps the batch.
    let apart = graph.sizes(&format!("{name}.apart"), &[0, 2, half as i64, 1]);
    let together = graph.sizes(&format!("{name}.together"), &[0, 2 * half as i64, 1, 1]);
    let pairs = graph.node(
        "Reshape",
        &format!("{name}.pairs"),
        &[&expanded, &apart],
        &[],
    );
    let shares = graph.node(
        "Softmax",
        &format!("{name}.shares"),
        &[&pairs],
        &[("axis", Int(1))],
    );
    let shares = graph.node(
        "Reshape",
        &format!("{name}.flat"),
        &[&shares, &together],
        &[],
    );
    let [first, second] = graph.halves(&format!("{name}.weights"), &shares, half);
    let one = graph.node("Mul", &format!("{name}.one"), &[&one, &first], &[]);
    let other = graph.node("Mul", &format!("{name}.other"), &[&other, &second], &[]);
    Ok(graph.node("Add", &format!("{name}.mixed"), &[&one, &other], &[]))
}

fn shortcut(graph: &mut Graph<'_>, cut: &Shortcut, x: &Value) -> Result<Value, OnnxError> {
    let pooled = cut.average_pool.map(|stride| {
        let stride = stride as i64;
        let name = format!("{}.pool", cut.projection.conv.name);
        // With stride 1 padding is left out of the mean, as TensorFlow's SAME; with stride 2 an odd side is padded by
        // zeros that count.
        let (padding, counted) = match stride {
            1 => (("auto_pad", Word("SAME_UPPER")), 0),
            _ => (("pads", Ints(&[0, 0, 1, 1])), 1),
        };
        let window = [
            ("kernel_shape", Ints(&[2, 2])),
            ("strides", Ints(&[stride; 2])),
            padding,
            ("count_include_pad", Int(counted)),
        ];
        graph.node("AveragePool", &name, &[x], &window)
    });
    conv_norm(graph, &cut.projection, pooled.as_ref().unwrap_or(x))
}

/// The first `layers` layers of a projection head.
fn head(
    graph: &mut Graph<'_>,
    spec: &HeadSpec,
    layers: u32,
    features: Value,
) -> Result<Value, OnnxError> {
    let mut x = features;
    for layer in 0..layers {
        let name = format!("head.{layer}");
        let weight = graph.tensor(&format!("{name}.weight"))?;
        let mapped = graph.node("Gemm", &name, &[&x, &weight], &[("transB", Int(1))]);
        let norm = format!("{name}.bn");
        x = if layer + 1 == spec.layers {
            let shift = graph.zeros(&format!("{norm}.bias"), spec.dim.into());
            batch_norm(graph, &norm, &mapped, shift)?
        } else {
            let shift = graph.tensor(&format!("{norm}.bias"))?;
            let normed = batch_norm(graph, &norm, &mapped, shift)?;
            relu(graph, &norm, &normed)
        };
    }
    Ok(x)
}

fn conv_norm(graph: &mut Graph<'_>, part: &ConvNorm, x: &Value) -> Result<Value, OnnxError> {
    let y = convolution(graph, &part.conv, x)?;
    let shift = graph.tensor(&format!("{}.bias", part.norm))?;
    batch_norm(graph, &part.norm, &y, shift)
}

fn convolution(graph: &mut Graph<'_>, conv: &Convolution, x: &Value) -> Result<Value, OnnxError> {
    let weight = graph.tensor(&format!("{}.weight", conv.name))?;
    let (kernel, stride) = (conv.kernel as i64, conv.stride as i64);
    let padding = conv.padding() as i64;
    let shape = [
        ("kernel_shape", Ints(&[kernel; 2])),
        ("strides", Ints(&[stride; 2])),
        ("pads", Ints(&[padding; 4])),
    ];
    Ok(graph.node("Conv", &conv.name, &[x, &weight], &shape))
}

fn batch_norm(
    graph: &mut Graph<'_>,
    name: &str,
    x: &Value,
    shift: Value,
) -> Result<Value, OnnxError> {
    let scale = graph.tensor(&format!("{name}.weight"))?;
    let mean = graph.tensor(&format!("{name}.running_mean"))?;
    let variance = graph.tensor(&format!("{name}.running_var"))?;
    let inputs = [x, &scale, &shift, &mean, &variance];
    let epsilon = [("epsilon", Float(NORM_EPSILON as f32))];
    Ok(graph.node("BatchNormalization", name, &inputs, &epsilon))
}

fn relu(graph: &mut Graph<'_>, name: &str, x: &Value) -> Value {
    graph.node("Relu", &format!("{name}.relu"), &[x], &[])
}
