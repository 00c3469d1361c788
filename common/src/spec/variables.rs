//! `${NAME}` in the texts of a spec, filled in by the command that reads it.

use serde_norway::Value;

use super::{FieldError, SpecErrors};

/// Fills every `${NAME}` in every text value, with what `lookup` knows of NAME. Nothing else is expanded, and what is
/// filled in is not expanded again.
///
/// # Errors
/// Every variable that is not set, with the field that wants it.
pub fn expand(
    document: &mut Value,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<(), SpecErrors> {
    let mut errors = Vec::new();
    visit(document, String::new(), lookup, &mut errors);
    if errors.is_empty() {
        Ok(())
    } else {
        Err(SpecErrors(errors))
    }
}

fn visit(
    value: &mut Value,
    path: String,
    lookup: &dyn Fn(&str) -> Option<String>,
    errors: &mut Vec<FieldError>,
) {
    match value {
        Value::String(text) if text.contains("${") => match fill(text, lookup) {
            Ok(filled) => *text = filled,
            Err(message) => errors.push(FieldError::new(path, message)),
        },
        Value::Sequence(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                visit(item, format!("{path}[{index}]"), lookup, errors);
            }
        }
        Value::Mapping(fields) => {
            for (key, value) in fields.iter_mut() {
                let key = key.as_str().unwrap_or("?");
                let at = if path.is_empty() {
                    key.to_owned()
                } else {
                    format!("{path}.{key}")
                };
                visit(value, at, lookup, errors);
            }
        }
        _ => {}
    }
}

fn fill(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, tail)) = after.split_once('}') else {
            return Err(format!("`{text}` has a `${{` without its `}}`"));
        };
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(legal) {
            return Err(format!(
                "`${{{name}}}` is no variable: letters, digits and `_`"
            ));
        }
        let Some(value) = lookup(name) else {
            return Err(format!(
                "the variable {name} is not set: set it in the environment of this command"
            ));
        };
        filled.push_str(before);
        filled.push_str(&value);
        rest = tail;
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        (name == "DATA").then(|| "/d/${X}".to_owned())
    }

    #[test]
    fn variables_are_filled_once_and_unset_ones_are_named_with_their_field() {
        let text = "a: {url: 'file://${DATA}/x'}\nb: ['${NOPE}', '${DATA', '${}', $DATA]";
        let mut value: Value = serde_norway::from_str(text).expect("YAML");
        let SpecErrors(errors) = expand(&mut value, &lookup).expect_err("some are unset");
        assert_eq!(value["a"]["url"], Value::from("file:///d/${X}/x"));
        assert_eq!(value["b"][3], Value::from("$DATA"));
        let paths: Vec<&str> = errors.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(paths, ["b[0]", "b[1]", "b[2]"]);
        assert!(errors[0].message.contains("NOPE"));
    }
}
