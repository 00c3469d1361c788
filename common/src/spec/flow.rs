//! Parts of a spec on one line, for people: `{depth: 50, stem: cifar}`.

use serde::Serialize;
use serde_json::Value;

/// A map of fields as YAML on one line; empty for anything else.
pub fn flow(fields: &impl Serialize) -> String {
    let Ok(Value::Object(fields)) = serde_json::to_value(fields) else {
        return String::new();
    };
    let word = |value: &Value| match value {
        Value::String(word) => word.clone(),
        other => other.to_string(),
    };
    let fields: Vec<String> = fields
        .iter()
        .map(|(field, value)| format!("{field}: {}", word(value)))
        .collect();
    format!("{{{}}}", fields.join(", "))
}
