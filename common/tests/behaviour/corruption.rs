mod distill;
mod labels;

use super::spec::check;

/// (override, path of the error, a word of its message)
const CORRUPTIONS: &[(&str, &str, &str)] = &[
    ("apiVersion=diptych/v2", "apiVersion", "diptych/v1"),
    ("name=Job", "name", "lower-case"),
    (
        "name=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "name",
        "50",
    ),
    ("name=", "name", "expected a text"),
    ("seed=-1", "seed", "not between"),
    ("storage=http://x/y", "storage", "not supported"),
    ("storage=/tmp", "storage", "not a URL"),
    ("storag=x", "storag", "did you mean `storage`"),
    ("resources.device=gpu", "resources.device", "cuda"),
    ("resources.precision=fp16", "resources.precision", "fp64"),
    ("resources.ranks=0", "resources.ranks", "less than 1"),
    (
        "resources.ranks=two",
        "resources.ranks",
        "whole number or a map",
    ),
    (
        "resources.ranks.min=3",
        "resources.ranks.min",
        "more than `max`",
    ),
    ("resources.ranks.max=5", "resources.ranks.max", "at most 4"),
    ("data.train.url=ftp://x", "data.train.url", "not supported"),
    ("data.train.format=csv", "data.train.format", "parquet"),
    (
        "data.train.format=tar",
        "data.train.image_column",
        "parquet",
    ),
    (
        "data.train.classes=[a, a]",
        "data.train.classes[1]",
        "twice",
    ),
    ("data.train.classes=[]", "data.train.classes", "empty"),
    ("data.train.limit=0", "data.train.limit", "less than 1"),
    ("data.train.limit=10", "phases[0].batch", "full batch"),
    ("data.T.url=file:///x", "data.T", "data name"),
    ("encoder.depth=19", "encoder.depth", "34, 50, 101"),
    ("encoder.depth=18.5", "encoder.depth", "whole number"),
    ("encoder.width=0.3", "encoder.width", "whole number"),
    ("encoder.width=0", "encoder.width", "above 0"),
    ("encoder.width=.nan", "encoder.width", "above 0"),
    ("encoder.stem=cifer", "encoder.stem", "did you mean `cifar`"),
    (
        "encoder.depth=50",
        "encoder.basic_shortcut",
        "depth 18 and 34",
    ),
    (
        "encoder.depth=200",
        "encoder.basic_shortcut",
        "depth 200 always",
    ),
    (
        "encoder.max_pool=torch",
        "encoder.max_pool",
        "stem: imagenet",
    ),
    (
        "encoder.selective_kernel=1",
        "encoder.selective_kernel",
        "true or false",
    ),
    ("head.layers=0", "head.layers", "less than 1"),
    ("head.layers=33", "head.layers", "more than 32"),
    ("head.dim=0", "head.dim", "less than 1"),
    ("head.kind=deep", "head.kind", "`nonlinear`, `linear`"),
    ("head={kind: linear, layers: 2}", "head.layers", "one layer"),
    ("head={kind: none, dim: 8}", "head.dim", "without a head"),
    ("head={kind: none}", "phases[2].head_layer", "only 0"),
    ("head={kind: linear}", "phases[2].head_layer", "1 layer"),
    (
        "phases[0].probe_layer=4",
        "phases[0].probe_layer",
        "3 layers",
    ),
    (
        "phases[1].probe_layer=0",
        "phases[1].probe_layer",
        "does not belong",
    ),
    ("phases=[]", "phases", "at least one"),
    (
        "phases[1].name=pretrain",
        "phases[1].name",
        "earlier phase, too",
    ),
    ("phases[1].name=random", "phases[1].name", "fresh weights"),
    (
        "phases[1].kind=linear-eval",
        "phases[1].kind",
        "did you mean `linear_eval`",
    ),
    ("phases[0].batch=1", "phases[0].batch", "less than 2"),
    ("phases[0].batch=0", "phases[0].batch", "less than 2"),
    ("phases[0].lanes=5", "phases[0].lanes", "do not divide"),
    ("phases[0].groups=3", "phases[0].groups", "do not divide"),
    (
        "phases[0].micro_batch_groups=3",
        "phases[0].micro_batch_groups",
        "do not divide",
    ),
    (
        "phases[0].micro_batch_groups=0",
        "phases[0].micro_batch_groups",
        "less than 1",
    ),
    (
        "phases[0].resources.ranks=8",
        "phases[0].resources.ranks",
        "at most 4",
    ),
    (
        "phases[0].resources={device: cuda, precision: fp64}",
        "phases[0].resources.precision",
        "cpu",
    ),
    ("phases[0].epochs=0", "phases[0].epochs", "above 0"),
    ("phases[0].epochs=.inf", "phases[0].epochs", "at most"),
    ("phases[0].epochs=", "phases[0].epochs", "required"),
    ("phases[0].steps=5", "phases[0].steps", "one of the two"),
    ("phases[1].steps=0", "phases[1].steps", "less than 1"),
    (
        "phases[0].optimizer.kind=adam",
        "phases[0].optimizer.kind",
        "lars",
    ),
    (
        "phases[0].optimizer.kind=sgd",
        "phases[0].optimizer.trust_coefficient",
        "lars",
    ),
    (
        "phases[0].optimizer.learning_rate=0",
        "phases[0].optimizer.learning_rate",
        "above 0",
    ),
    (
        "phases[0].optimizer.learning_rate=fast",
        "phases[0].optimizer.learning_rate",
        "expected a number",
    ),
    (
        "phases[0].optimizer.scaling=log",
        "phases[0].optimizer.scaling",
        "sqrt",
    ),
    (
        "phases[0].optimizer.warmup_epochs=3",
        "phases[0].optimizer.warmup_epochs",
        "longer",
    ),
    (
        "phases[0].optimizer.momentum=1",
        "phases[0].optimizer.momentum",
        "< 1",
    ),
    (
        "phases[0].optimizer.weight_decay=-1",
        "phases[0].optimizer.weight_decay",
        "between",
    ),
    (
        "phases[0].optimizer.momentum_kind=heavy",
        "phases[0].optimizer.momentum_kind",
        "popular",
    ),
    (
        "phases[0].optimizer.beta1=0.9",
        "phases[0].optimizer.beta1",
        "kind: adamw",
    ),
    (
        "phases[1].optimizer.momentum_kind=classic",
        "phases[1].optimizer.momentum_kind",
        "kind: lars",
    ),
    (
        "phases[2].optimizer.momentum=0.9",
        "phases[2].optimizer.momentum",
        "kind: lars` and `kind: sgd",
    ),
    (
        "phases[2].optimizer.beta2=1",
        "phases[2].optimizer.beta2",
        "< 1",
    ),
    (
        "phases[2].optimizer.epsilon=0",
        "phases[2].optimizer.epsilon",
        "above 0",
    ),
    ("phases[0].optimizer=", "phases[0].optimizer", "map"),
    (
        "phases[0].augment=",
        "phases[0].augment.image_size",
        "required",
    ),
    (
        "phases[0].augment.image_size=128",
        "phases[0].augment.image_size",
        "cifar",
    ),
    (
        "phases[0].augment.crop_area=[0.5, 0.2]",
        "phases[0].augment.crop_area",
        "range",
    ),
    (
        "phases[0].augment.crop_area=[0.5]",
        "phases[0].augment.crop_area",
        "expected 2",
    ),
    (
        "phases[0].augment.crop_area=[a, b]",
        "phases[0].augment.crop_area[0]",
        "number",
    ),
    (
        "phases[0].augment.crop_aspect=[0, 1]",
        "phases[0].augment.crop_aspect",
        "range",
    ),
    (
        "phases[0].augment.color_strength=2",
        "phases[0].augment.color_strength",
        "between",
    ),
    (
        "phases[0].augment.color_probability=1.1",
        "phases[0].augment.color_probability",
        "between",
    ),
    (
        "phases[0].augment.grayscale_probability=-0.1",
        "phases[0].augment.grayscale_probability",
        "between",
    ),
    (
        "phases[0].augment.blur_probability=7",
        "phases[0].augment.blur_probability",
        "between",
    ),
    (
        "phases[0].loss.temperature=0",
        "phases[0].loss.temperature",
        "above 0",
    ),
    ("phases[0].loss.scale=half", "phases[0].loss.scale", "paper"),
    (
        "phases[0].loss.memory.size=127",
        "phases[0].loss.memory.size",
        "128 rows that a step adds",
    ),
    (
        "phases[0].loss.memory.size=100000000",
        "phases[0].loss.memory.size",
        "more than",
    ),
    (
        "phases[0].loss.memory.decay=1",
        "phases[0].loss.memory.decay",
        "never move",
    ),
    (
        "phases[0].loss.normalize=false",
        "phases[0].loss.memory",
        "unit rows",
    ),
    (
        "phases[0].evaluate.stop_after.metric=eval_top1",
        "phases[0].evaluate.stop_after.metric",
        "knn_top1",
    ),
    (
        "phases[0].evaluate.stop_after.evaluations=0",
        "phases[0].evaluate.stop_after.evaluations",
        "less than 1",
    ),
    (
        "phases[0].evaluate.stop_after={}",
        "phases[0].evaluate.stop_after.metric",
        "required",
    ),
    (
        "phases[0].probe=false",
        "phases[0].evaluate.stop_after.metric",
        "`probe` is false",
    ),
    (
        "phases[0].evaluate.knn_k=0",
        "phases[0].checkpoint.select.best",
        "`evaluate.knn_k` is 0",
    ),
    (
        "phases[1].checkpoint={select: {best: eval_top1}}",
        "phases[1].checkpoint.select",
        "every_epochs",
    ),
    (
        "phases[1].checkpoint={select: {best: loss}}",
        "phases[1].checkpoint.select.best",
        "eval_top5",
    ),
    (
        "data.test=",
        "phases[0].checkpoint.select",
        "evaluation data",
    ),
    (
        "phases[0].evaluate.every_epochs=0",
        "phases[0].evaluate.every_epochs",
        "above 0",
    ),
    (
        "phases[0].evaluate.knn_temperature=0",
        "phases[0].evaluate.knn_temperature",
        "above 0",
    ),
    (
        "phases[0].checkpoint.every=soon",
        "phases[0].checkpoint.every",
        "duration",
    ),
    (
        "phases[0].checkpoint.every=0s",
        "phases[0].checkpoint.every",
        "less than 1s",
    ),
    (
        "phases[0].checkpoint.every_steps=0",
        "phases[0].checkpoint.every_steps",
        "less than 1",
    ),
    (
        "phases[0].checkpoint.keep=0",
        "phases[0].checkpoint.keep",
        "less than 1",
    ),
    (
        "phases[0].on_non_finite=retry",
        "phases[0].on_non_finite",
        "rewind",
    ),
    ("resources.spares=65", "resources.spares", "more than 64"),
    ("resources.tf32=true", "resources.tf32", "device: cuda"),
    (
        "phases[0].augment.place=gpu",
        "phases[0].augment.place",
        "`resident`",
    ),
    (
        "phases[0].max_bad_images=2",
        "phases[0].max_bad_images",
        "between",
    ),
    (
        "phases[0].temperature=1",
        "phases[0].temperature",
        "loss.temperature",
    ),
    (
        "phases[0].labels={share: 0.1}",
        "phases[0].labels",
        "does not belong",
    ),
    ("phases[0].from=tuned", "phases[0].from", "later phase"),
    ("phases[1].probe=true", "phases[1].probe", "does not belong"),
    (
        "phases[1].evaluate.knn_k=5",
        "phases[1].evaluate.knn_k",
        "does not belong",
    ),
    ("phases[1].from=", "phases[1].from", "required"),
    (
        "phases[1].from=pretrian",
        "phases[1].from",
        "did you mean `pretrain`",
    ),
    ("phases[1].from=linear", "phases[1].from", "itself"),
    ("phases[2].from=linear", "phases[2].from", "linear_eval"),
    (
        "phases[2].from=http://x/y",
        "phases[2].from",
        "not supported",
    ),
    ("phases[1].head_layer=4", "phases[1].head_layer", "3 layers"),
    (
        "phases[1].head_layer=every",
        "phases[1].head_layer",
        "`all`",
    ),
    ("phases[1].head_layer=[]", "phases[1].head_layer", "empty"),
    (
        "phases[1].head_layer=[0, 4]",
        "phases[1].head_layer[1]",
        "3 layers",
    ),
    (
        "phases[1].head_layer=[2, 0, 2]",
        "phases[1].head_layer[2]",
        "twice",
    ),
    (
        "phases[1].head_layer=[0, x]",
        "phases[1].head_layer[1]",
        "whole number",
    ),
    (
        "phases[1].head_layer={a: 1}",
        "phases[1].head_layer",
        "a whole number or a text or a list",
    ),
    (
        "phases[2].head_layer=all",
        "phases[2].head_layer",
        "one number",
    ),
    (
        "phases[2].head_layer=[1]",
        "phases[2].head_layer",
        "one number",
    ),
    (
        "phases[1].data.train=trian",
        "phases[1].data.train",
        "did you mean `train`",
    ),
    (
        "phases[1].data.eval=x",
        "phases[1].data.eval",
        "not in `data`",
    ),
];

#[test]
fn every_corruption_of_one_field_is_refused_at_its_path() {
    let mut missed = Vec::new();
    for (set, path, word) in CORRUPTIONS
        .iter()
        .chain(distill::CORRUPTIONS)
        .chain(labels::CORRUPTIONS)
    {
        let found = check(&[set]).map_or_else(|errors| errors.0, |_| Vec::new());
        if !found
            .iter()
            .any(|error| error.path == *path && error.message.contains(word))
        {
            missed.push(format!(
                "{set}: expected {path} with {word:?}, found {found:?}"
            ));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn what_all_phases_share_is_refused_once() {
    let errors = check(&["resources.spares=65"]).expect_err("too many");
    assert_eq!(errors.0.len(), 1, "{errors}");
}
