//! Owns label and field selectors: parsing with the real server's errors, and matching.

use crate::status::{ApiError, quote};

#[derive(Debug, Clone, PartialEq)]
enum Op {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

/// A parsed `labelSelector`; all requirements must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LabelSelector {
    requirements: Vec<(String, Op)>,
}

fn unparsable(text: &str) -> ApiError {
    ApiError::bad_request(format!("unable to parse requirement: found {}, expected a label selector", quote(text)))
}

/// Splits at commas that are not inside parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0usize, 0, Vec::new());
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(text[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts
}

impl LabelSelector {
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut requirements = Vec::new();
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        for part in split(text) {
            requirements.push(Self::requirement(part)?);
        }
        for (key, op) in &requirements {
            let mut wrong = crate::validate::label_key_errors(key);
            if let Op::In(values) | Op::NotIn(values) = op {
                wrong.extend(values.iter().flat_map(|v| crate::validate::label_value_errors(v)));
            }
            if let Some(first) = wrong.first() {
                return Err(ApiError::bad_request(format!(
                    "unable to parse requirement: {}: Invalid value: {}: {first}",
                    "<nil>",
                    quote(key)
                )));
            }
        }
        Ok(Self { requirements })
    }

    fn requirement(part: &str) -> Result<(String, Op), ApiError> {
        if let Some(open) = part.find('(') {
            let list = part[open + 1..].strip_suffix(')').ok_or_else(|| unparsable(part))?;
            let mut head = part[..open].split_whitespace();
            let (Some(key), Some(word), None) = (head.next(), head.next(), head.next()) else {
                return Err(unparsable(part));
            };
            let values: Vec<String> = list.split(',').map(|v| v.trim().to_owned()).collect();
            return match word {
                "in" => Ok((key.to_owned(), Op::In(values))),
                "notin" => Ok((key.to_owned(), Op::NotIn(values))),
                _ => Err(unparsable(part)),
            };
        }
        for (sign, not) in [("!=", true), ("==", false), ("=", false)] {
            if let Some((key, value)) = part.split_once(sign) {
                let values = vec![value.trim().to_owned()];
                return Ok((key.trim().to_owned(), if not { Op::NotIn(values) } else { Op::In(values) }));
            }
        }
        for (sign, greater) in [(">", true), ("<", false)] {
            if let Some((key, value)) = part.split_once(sign) {
                let n = value.trim().parse().map_err(|_| unparsable(part))?;
                return Ok((key.trim().to_owned(), if greater { Op::Greater(n) } else { Op::Less(n) }));
            }
        }
        match part.strip_prefix('!') {
            Some(key) => Ok((key.trim().to_owned(), Op::Absent)),
            None => Ok((part.to_owned(), Op::Exists)),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    pub fn matches(&self, labels: &[(String, String)]) -> bool {
        self.requirements.iter().all(|(key, op)| {
            let value = labels.iter().find(|(k, _)| k == key).map(|(_, v)| v);
            let number = value.and_then(|v| v.parse::<i64>().ok());
            match op {
                Op::In(values) => value.is_some_and(|v| values.contains(v)),
                Op::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
                Op::Exists => value.is_some(),
                Op::Absent => value.is_none(),
                Op::Greater(n) => number.is_some_and(|v| v > *n),
                Op::Less(n) => number.is_some_and(|v| v < *n),
            }
        })
    }
}

/// A parsed `fieldSelector`: (field, wanted value, equal?).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FieldSelector {
    requirements: Vec<(String, String, bool)>,
}

/// Splits at commas that have no backslash before them.
fn terms(text: &str) -> Vec<&str> {
    let (mut start, mut escaped, mut parts) = (0, false, Vec::new());
    for (i, c) in text.char_indices() {
        match c {
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            ',' if !escaped => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
        escaped = false;
    }
    parts.push(&text[start..]);
    parts
}

/// The value that a backslash before `\`, `,` and `=` stands for; they may not come without it.
fn unescaped(value: &str) -> Result<String, ApiError> {
    let invalid = |what: &str| ApiError::bad_request(format!("invalid field selector: {what} in value: {value}"));
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(next @ ('\\' | ',' | '=')) => out.push(next),
                Some(next) => return Err(invalid(&format!("invalid escape sequence: \\{next}"))),
                None => return Err(invalid("invalid escape sequence: \\")),
            },
            ',' | '=' => return Err(invalid(&format!("unescaped character: {c}"))),
            _ => out.push(c),
        }
    }
    Ok(out)
}

impl FieldSelector {
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut requirements = Vec::new();
        for part in terms(text).into_iter().filter(|part| !part.is_empty()) {
            let operator = part.char_indices().find_map(|(at, _)| {
                let signs = [("!=", false), ("==", true), ("=", true)];
                signs.into_iter().find(|(sign, _)| part[at..].starts_with(sign)).map(|found| (at, found))
            });
            let Some((at, (sign, equal))) = operator else {
                return Err(ApiError::bad_request(format!("invalid selector: '{text}'; can't understand '{part}'")));
            };
            requirements.push((part[..at].to_owned(), unescaped(&part[at + sign.len()..])?, equal));
        }
        Ok(Self { requirements })
    }

    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.requirements.iter().map(|(field, _, _)| field.as_str())
    }

    /// The name that `metadata.name=` pins, which RBAC's resourceNames look at.
    pub fn exact_name(&self) -> Option<&str> {
        self.requirements.iter().find(|(k, _, equal)| *equal && k == "metadata.name").map(|(_, v, _)| v.as_str())
    }

    /// `lookup` gives the object's value of a field; a field it lacks is the empty string.
    pub fn matches<'a>(&self, lookup: impl Fn(&str) -> &'a str) -> bool {
        self.requirements.iter().all(|(field, value, equal)| (lookup(field) == value) == *equal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(selector: &str, labels: &[(&str, &str)]) -> bool {
        let labels: Vec<(String, String)> = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        LabelSelector::parse(selector).unwrap().matches(&labels)
    }

    #[test]
    fn label_selectors_follow_the_grammar() {
        let labels = [("a", "1"), ("example.com/b", "x")];
        for yes in [
            "a=1",
            "a==1",
            "a!=2",
            "a",
            "!c",
            "a in (1,2)",
            "a notin (2, 3)",
            "example.com/b=x,a",
            "c notin (1)",
            "c!=1",
            "a>0",
            "",
        ] {
            assert!(matches(yes, &labels), "{yes}");
        }
        for no in ["a=2", "a!=1", "!a", "c", "a in (2)", "a notin (1)", "a=1,c", "a<1"] {
            assert!(!matches(no, &labels), "{no}");
        }
    }

    #[test]
    fn values_of_field_selectors_have_their_own_escapes() {
        for (text, value) in [(r"a=b\,c", "b,c"), (r"a=b\=c", "b=c"), (r"a=b\\", r"b\"), ("a=b c", "b c"), ("a=", "")] {
            let selector = FieldSelector::parse(text).unwrap();
            assert!(selector.matches(|field| if field == "a" { value } else { "?" }), "{text}");
        }
        for text in [r"a=\x", r"a=\", "a=b=c", "a=b,c"] {
            assert_eq!(FieldSelector::parse(text).unwrap_err().code, 400, "{text}");
        }
    }

    #[test]
    fn broken_selectors_are_a_bad_request() {
        for text in ["a in (1", "a within (1)", "a=b c", "=x"] {
            assert_eq!(LabelSelector::parse(text).unwrap_err().code, 400, "{text}");
        }
        assert_eq!(FieldSelector::parse("metadata.name").unwrap_err().code, 400);
    }
}
