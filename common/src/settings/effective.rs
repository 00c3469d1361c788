//! What holds, as a file that gives the same again.

use std::fmt;

use super::layers::Origin;

/// What holds, in the order in which it was asked for, and who gave it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effective(Vec<(String, Option<String>, Origin)>);

impl Effective {
    pub(super) fn put(&mut self, key: &str, value: Option<String>, origin: Origin) {
        let value = value.map(|value| without_password(&value));
        match self.0.iter_mut().find(|(known, _, _)| known == key) {
            Some(known) => *known = (key.to_owned(), value, origin),
            None => self.0.push((key.to_owned(), value, origin)),
        }
    }
}

impl fmt::Display for Effective {
    /// TOML.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, value, origin) in &self.0 {
            match value {
                Some(value) => {
                    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
                    writeln!(f, "{key} = \"{escaped}\" # {origin}")?;
                }
                None => writeln!(f, "# {key} is not set")?,
            }
        }
        Ok(())
    }
}

/// A URL may carry a password, which nobody is shown; other texts are as they are.
pub fn without_password(value: &str) -> String {
    let Some((scheme, rest)) = value.split_once("://") else {
        return value.to_owned();
    };
    let authority = rest.split('/').next().unwrap_or_default();
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://…@{host}{}", &rest[authority.len()..]),
        None => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_shown_a_password() {
        for (value, shown) in [
            ("http://me:secret@host:7654/x@y", "http://…@host:7654/x@y"),
            ("http://host:7654", "http://host:7654"),
            ("info,diptych=debug", "info,diptych=debug"),
            ("s3://token@", "s3://…@"),
        ] {
            assert_eq!(without_password(value), shown);
        }
    }
}
