//! The JSON schema of a spec, derived from the draft types: what `diptych spec schema` prints and what
//! [`parse`](super::parse) checks a document against.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::JobDraft;

/// Fields that must be given, by the type that holds them; all others have defaults.
const REQUIRED: [(&str, &[&str]); 6] = [
    ("PhaseDraft", &["name", "kind", "batch", "optimizer"]),
    ("EncoderDraft", &["depth"]),
    ("OptimizerDraft", &["kind", "learning_rate"]),
    ("AugmentDraft", &["image_size"]),
    ("DataDraft", &["url"]),
    ("RankRangeDraft", &["min", "max"]),
];
const REQUIRED_AT_ROOT: [&str; 6] = ["apiVersion", "name", "storage", "data", "encoder", "phases"];

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let mut schema = schemars::schema_for!(JobDraft).to_value();
    drop_defaults(&mut schema);
    schema["required"] = json!(REQUIRED_AT_ROOT);
    for (name, fields) in REQUIRED {
        schema["$defs"][name]["required"] = json!(fields);
    }
    schema
});

/// The schema.
pub fn schema() -> &'static Value {
    &SCHEMA
}

/// The derive writes each type's empty value as its default; the real defaults are in the descriptions.
fn drop_defaults(schema: &mut Value) {
    let mut types = vec![];
    if let Some(object) = schema.as_object_mut() {
        for (key, value) in object.iter_mut() {
            match (key.as_str(), value.as_object_mut()) {
                ("properties", Some(properties)) => types.extend(properties.values_mut()),
                ("$defs", Some(definitions)) => definitions.values_mut().for_each(drop_defaults),
                _ => {}
            }
        }
    }
    for property in types {
        if let Some(property) = property.as_object_mut() {
            property.remove("default");
        }
    }
}
