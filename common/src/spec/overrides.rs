//! `--set path=value`: changes one field of a document before it is read.
//!
//! Steps of a path are field names (`encoder.width`), positions (`phases[0]`) or names of list entries
//! (`phases.pretrain.batch`). Maps on the way are made where they are missing; a value is read as YAML, and an empty
//! one unsets the field.

use serde_norway::{Mapping, Value};

use super::{FieldError, suggest};

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part<'a> {
    Name(&'a str),
    Index(usize),
}

/// Applies one `path=value`.
///
/// # Errors
/// The path that leads nowhere, or the text that is no `path=value`.
pub fn apply(document: &mut Value, text: &str) -> Result<(), FieldError> {
    let Some((path, value)) = text.split_once('=') else {
        return Err(FieldError::new(
            text,
            "expected `path=value`, e.g. `phases[0].batch=64`",
        ));
    };
    let path = path.trim();
    let parts = parts(path).ok_or_else(|| {
        FieldError::new(path, "is not a path: names and positions such as `phases[0].batch` or `phases.pretrain.batch`")
    })?;
    let value: Value = serde_norway::from_str(value).map_err(|error| {
        FieldError::new(path, format!("`{value}` is not a YAML value: {error}"))
    })?;
    let mut place = document;
    for part in parts {
        place = step(place, &part).map_err(|message| FieldError::new(path, message))?;
    }
    *place = value;
    Ok(())
}

fn parts(path: &str) -> Option<Vec<Part<'_>>> {
    let mut parts = Vec::new();
    for segment in path.split('.') {
        let (name, mut rest) = segment.split_at(segment.find('[').unwrap_or(segment.len()));
        if name.is_empty() {
            return None;
        }
        parts.push(Part::Name(name));
        while !rest.is_empty() {
            let (index, tail) = rest.strip_prefix('[')?.split_once(']')?;
            parts.push(Part::Index(index.parse().ok()?));
            rest = tail;
        }
    }
    Some(parts)
}

fn step<'v>(place: &'v mut Value, part: &Part<'_>) -> Result<&'v mut Value, String> {
    if place.is_null() {
        *place = Value::Mapping(Mapping::new());
    }
    match (place, part) {
        (Value::Mapping(fields), Part::Name(name)) => Ok(fields
            .entry(Value::String((*name).to_owned()))
            .or_insert(Value::Null)),
        (Value::Sequence(items), Part::Index(index)) => {
            let length = items.len();
            items
                .get_mut(*index)
                .ok_or_else(|| format!("there is no [{index}]: the list has {length} entries"))
        }
        (Value::Sequence(items), Part::Name(name)) => {
            let known: Vec<String> = items
                .iter()
                .filter_map(|item| item.get("name")?.as_str().map(str::to_owned))
                .collect();
            items
                .iter_mut()
                .find(|item| item.get("name").and_then(Value::as_str) == Some(name))
                .ok_or_else(|| {
                    format!(
                        "there is no `{name}`{}",
                        suggest::hint(name, known.iter().map(String::as_str))
                    )
                })
        }
        (_, Part::Index(index)) => Err(format!("[{index}] does not lead into a list")),
        (_, Part::Name(name)) => Err(format!("`{name}` does not lead into a map or list")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> Value {
        serde_norway::from_str("phases: [{name: pretrain, batch: 8}, {name: linear}]\nname: x")
            .expect("YAML")
    }

    fn get(document: &Value, phase: usize, field: &str) -> Value {
        document["phases"][phase][field].clone()
    }

    #[test]
    fn fields_are_reached_by_position_and_by_name() {
        let mut value = document();
        apply(&mut value, "phases[0].batch=64").expect("applies");
        apply(&mut value, "phases.linear.optimizer.kind=sgd").expect("applies");
        apply(&mut value, "phases.linear.augment.crop_area=[0.2, 1]").expect("applies");
        apply(&mut value, "storage=file:///a/b=c").expect("applies");
        assert_eq!(get(&value, 0, "batch"), Value::from(64));
        assert_eq!(get(&value, 1, "optimizer")["kind"], Value::from("sgd"));
        assert_eq!(get(&value, 1, "augment")["crop_area"][0], Value::from(0.2));
        assert_eq!(value["storage"], Value::from("file:///a/b=c"));
    }

    #[test]
    fn paths_that_lead_nowhere_are_refused_in_words() {
        let table = [
            ("phases[2].batch=1", "2 entries"),
            ("phases.pretrian.batch=1", "did you mean `pretrain`"),
            ("name.x=1", "does not lead"),
            ("name[0]=1", "list"),
            ("batch", "path=value"),
            ("=1", "not a path"),
            ("phases[x]=1", "not a path"),
            ("a..b=1", "not a path"),
            ("name=[", "YAML"),
        ];
        for (text, word) in table {
            let error = apply(&mut document(), text).expect_err(text).to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
