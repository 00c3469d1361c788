//! Walks a document beside the schema, names every misfit, and cuts it out, so that what is left can be read.

use serde_json::Value as Schema;
use serde_norway::{Mapping, Value};

use super::super::schema::schema;
use super::super::{FieldError, suggest};

/// Whether a value may stay in the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Keep,
    Cut,
}

use Verdict::{Cut, Keep};

struct Walk {
    root: &'static Schema,
    errors: Vec<FieldError>,
}

/// Removes every misfit from the document and returns what was wrong with each.
pub(super) fn prune(document: &mut Value) -> Vec<FieldError> {
    let root = schema();
    let mut walk = Walk {
        root,
        errors: Vec::new(),
    };
    if walk.visit(root, document, "") == Cut {
        *document = Value::Mapping(Mapping::new());
    }
    walk.errors
}

impl Walk {
    fn refuse(&mut self, path: &str, message: String) -> Verdict {
        self.errors.push(FieldError::new(path, message));
        Cut
    }

    fn visit(&mut self, schema: &'static Schema, value: &mut Value, path: &str) -> Verdict {
        let mut options = Vec::new();
        self.alternatives(schema, &mut options);
        let fitting = options
            .iter()
            .copied()
            .find(|option| option.kind.takes(value));
        let Some(Alternative { kind, schema }) = fitting else {
            return self.refuse(path, misfit(&options, value));
        };
        match (kind, value) {
            (Kind::Integer, Value::Number(number)) => match range_error(schema, number) {
                Some(message) => self.refuse(path, message),
                None => Keep,
            },
            (Kind::Array, Value::Sequence(items)) => self.array(schema, items, path),
            (Kind::Object, Value::Mapping(fields)) => self.object(schema, fields, path),
            _ => Keep,
        }
    }

    /// The forms that a schema allows, references and unions resolved.
    fn alternatives(&self, schema: &'static Schema, into: &mut Vec<Alternative>) {
        if let Some(name) = schema["$ref"]
            .as_str()
            .and_then(|reference| reference.strip_prefix("#/$defs/"))
        {
            return self.alternatives(&self.root["$defs"][name], into);
        }
        if let Some(options) = schema["anyOf"].as_array().or(schema["oneOf"].as_array()) {
            return options
                .iter()
                .for_each(|option| self.alternatives(option, into));
        }
        let words = match &schema["type"] {
            Schema::Array(words) => words.iter().filter_map(Schema::as_str).collect(),
            word => word.as_str().into_iter().collect::<Vec<_>>(),
        };
        into.extend(
            words
                .into_iter()
                .filter_map(Kind::from_word)
                .map(|kind| Alternative { kind, schema }),
        );
    }

    fn array(&mut self, schema: &'static Schema, items: &mut [Value], path: &str) -> Verdict {
        let length = items.len() as u64;
        let bounds = (schema["minItems"].as_u64(), schema["maxItems"].as_u64());
        if bounds.0.is_some_and(|least| length < least)
            || bounds.1.is_some_and(|most| length > most)
        {
            let wanted = bounds.0.or(bounds.1).unwrap_or_default();
            return self.refuse(path, format!("has {length} items; expected {wanted}"));
        }
        let mut verdict = Keep;
        for (index, item) in items.iter_mut().enumerate() {
            if self.visit(&schema["items"], item, &format!("{path}[{index}]")) == Cut {
                // A list of maps keeps the place of a bad one, so that the others keep their paths.
                *item = Value::Mapping(Mapping::new());
                if Kind::Object != self.item_kind(&schema["items"]) {
                    verdict = Cut;
                }
            }
        }
        verdict
    }

    fn item_kind(&self, schema: &'static Schema) -> Kind {
        let mut options = Vec::new();
        self.alternatives(schema, &mut options);
        options.first().map_or(Kind::Null, |option| option.kind)
    }

    fn object(&mut self, schema: &'static Schema, fields: &mut Mapping, path: &str) -> Verdict {
        let mut cut = Vec::new();
        for (key, value) in fields.iter_mut() {
            let Some(name) = key.as_str() else {
                self.refuse(
                    path,
                    format!("has the field name {}: field names are texts", found(key)),
                );
                cut.push(key.clone());
                continue;
            };
            let at = if path.is_empty() {
                name.to_owned()
            } else {
                format!("{path}.{name}")
            };
            let verdict = match (&schema["properties"][name], &schema["additionalProperties"]) {
                (Schema::Object(_), _) => self.visit(&schema["properties"][name], value, &at),
                (_, any @ Schema::Object(_)) => self.visit(any, value, &at),
                _ => self.refuse(&at, unknown(name, schema)),
            };
            if verdict == Cut {
                cut.push(key.clone());
            }
        }
        for name in schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Schema::as_str)
        {
            if !fields.contains_key(name) {
                let at = if path.is_empty() {
                    name.to_owned()
                } else {
                    format!("{path}.{name}")
                };
                self.refuse(&at, required(&schema["properties"][name]));
            }
        }
        cut.iter().for_each(|key| drop(fields.remove(key)));
        Keep
    }
}

/// One form that a schema allows.
#[derive(Debug, Clone, Copy)]
struct Alternative {
    kind: Kind,
    schema: &'static Schema,
}

/// JSON schema's types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Null,
    Boolean,
    Integer,
    Number,
    Text,
    Array,
    Object,
}

impl Kind {
    fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "null" => Self::Null,
            "boolean" => Self::Boolean,
            "integer" => Self::Integer,
            "number" => Self::Number,
            "string" => Self::Text,
            "array" => Self::Array,
            "object" => Self::Object,
            _ => return None,
        })
    }

    fn takes(self, value: &Value) -> bool {
        match (self, value) {
            (Self::Integer, Value::Number(number)) => number.is_i64() || number.is_u64(),
            (Self::Null, Value::Null)
            | (Self::Boolean, Value::Bool(_))
            | (Self::Number, Value::Number(_))
            | (Self::Text, Value::String(_))
            | (Self::Array, Value::Sequence(_))
            | (Self::Object, Value::Mapping(_)) => true,
            _ => false,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Boolean => "true or false",
            Self::Integer => "a whole number",
            Self::Number => "a number",
            Self::Text => "a text",
            Self::Array => "a list",
            Self::Object => "a map of fields",
        }
    }
}

fn misfit(options: &[Alternative], value: &Value) -> String {
    let mut wanted: Vec<&str> = options
        .iter()
        .filter(|option| option.kind != Kind::Null)
        .map(|option| option.kind.words())
        .collect();
    wanted.dedup();
    let quotes = match value {
        Value::Number(_) | Value::Bool(_) if wanted == ["a text"] => "; put it into quotes",
        _ => "",
    };
    format!(
        "expected {}, found {}{quotes}",
        wanted.join(" or "),
        found(value)
    )
}

fn found(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(flag) => format!("`{flag}`"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => format!("the text `{text}`"),
        Value::Sequence(_) => "a list".to_owned(),
        Value::Mapping(_) => "a map of fields".to_owned(),
        Value::Tagged(tagged) => format!("the YAML tag `{}`", tagged.tag),
    }
}

/// What is wrong with an integer of the right form, if anything.
fn range_error(schema: &Schema, number: &serde_norway::Number) -> Option<String> {
    let value = number
        .as_u64()
        .map(i128::from)
        .or(number.as_i64().map(i128::from))?;
    let (low, high) = match schema["format"].as_str()? {
        "uint32" => (0, i128::from(u32::MAX)),
        "uint64" => (0, i128::from(u64::MAX)),
        "int32" => (i128::from(i32::MIN), i128::from(i32::MAX)),
        _ => return None,
    };
    (!(low..=high).contains(&value)).then(|| format!("{value} is not between {low} and {high}"))
}

fn unknown(name: &str, schema: &'static Schema) -> String {
    let fields: Vec<&str> = schema["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(field, _)| field.as_str())
        .collect();
    match suggest::nearest(name, fields.iter().copied()) {
        Some(field) => format!("is not a field here; did you mean `{field}`?"),
        None => format!("is not a field here; there are {}", fields.join(", ")),
    }
}

fn required(property: &Schema) -> String {
    match property["description"]
        .as_str()
        .and_then(|text| text.split(['.', '\n']).next())
    {
        Some(text) if !text.is_empty() => {
            format!("is required: {}{}", text[..1].to_lowercase(), &text[1..])
        }
        _ => "is required".to_owned(),
    }
}
