//! The YAML of the config directory: version 1.1 as the original's parser reads it, in which `yes` and `n` are
//! booleans. A file to a [`Node`]; what a key wants is not known here.
//!
//! Of 20,000 made-up files none was read otherwise than sigs.k8s.io/yaml 1.6 reads it. It refuses a tab before a value
//! and we do not; we refuse a block scalar or quoted lines that are not indented deeper than their key, and it does not.

use granit_parser::{Event, Parser, ScalarStyle};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

/// What a piece of YAML is before anybody asks for it as something.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    Null,
    Bool(bool),
    /// Within `i64` or `u64`.
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// In the order of the keys' bytes, in which the original meets them.
    Map(BTreeMap<String, Node>),
}

/// Nodes of one file, those that aliases repeat included. It bounds the depth too.
const MAX_NODES: usize = 100_000;

/// Reads one file. The original puts it below its key, indented by three, and reads that; so do we, because it makes
/// `---` and `%` at the start of a line ordinary text.
pub fn parse(file: &str) -> Result<Node, String> {
    let mut document = "value: \n".to_owned();
    for line in file.split('\n') {
        document.push_str("   ");
        document.push_str(line);
        document.push('\n');
    }
    let mut builder = Builder::default();
    for event in Parser::new_from_str(&document) {
        let (event, _) = event.map_err(|error| {
            let mark = error.marker();
            // The key's line is ours, and so is the indentation.
            let (line, column) = (mark.line().saturating_sub(1).max(1), mark.col().saturating_sub(3) + 1);
            format!("line {line}, column {column}: {}", error.info())
        })?;
        builder.event(event)?;
    }
    match builder.root {
        Some(Node::Map(mut map)) => Ok(map.remove("value").unwrap_or(Node::Null)),
        _ => Ok(Node::Null),
    }
}

impl Node {
    /// A scalar as text, as the original converts it for a field that is a string. `None`: no scalar.
    pub fn as_text(&self) -> Option<Cow<'_, str>> {
        match self {
            Node::Text(text) => Some(Cow::Borrowed(text)),
            Node::Bool(value) => Some(Cow::Owned(value.to_string())),
            Node::Int(value) => Some(Cow::Owned(value.to_string())),
            Node::Float(value) => Some(Cow::Owned(go_float(*value, ["+Inf", "-Inf", "NaN"]))),
            Node::Null | Node::List(_) | Node::Map(_) => None,
        }
    }

    /// For a message: what stands there instead of what is wanted.
    pub fn describe(&self) -> String {
        match self {
            Node::Null => "nothing".to_owned(),
            Node::Text(text) => format!("the text {text:?}"),
            Node::Bool(value) => format!("the boolean {value}"),
            Node::Int(value) => format!("the number {value}"),
            Node::Float(value) => format!("the number {value}"),
            Node::List(items) => format!("a list of {}", items.len()),
            Node::Map(entries) => format!("a map of {}", entries.len()),
        }
    }

    fn nodes(&self) -> usize {
        1 + match self {
            Node::List(items) => items.iter().map(Node::nodes).sum(),
            Node::Map(entries) => entries.values().map(Node::nodes).sum(),
            _ => 0,
        }
    }
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    root: Option<Node>,
}

/// A list or map whose end has not come yet.
struct Open {
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map { entries: BTreeMap<String, Node>, key: Option<Key> },
}

enum Key {
    Text(String),
    /// `<<`
    Merge,
}

impl Builder {
    fn event(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let core = tag.as_deref().filter(|tag| tag.handle() == "tag:yaml.org,2002:").map(|tag| tag.suffix());
                let resolvable = match core {
                    Some(name) => matches!(name, "bool" | "int" | "float" | "null" | "merge"),
                    None => tag.is_none() && style == ScalarStyle::Plain,
                };
                if resolvable && text == "<<" && self.merge_key() {
                    return Ok(());
                }
                let node = if resolvable { resolve(&text) } else { Node::Text(text.into_owned()) };
                self.place(node, anchor)
            }
            Event::SequenceStart(_, anchor, _) => {
                self.open.push(Open { anchor, content: Content::List(Vec::new()) });
                Ok(())
            }
            Event::MappingStart(_, anchor, _) => {
                self.open.push(Open { anchor, content: Content::Map { entries: BTreeMap::new(), key: None } });
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open { anchor, content: Content::List(items) }) => self.place(Node::List(items), anchor),
                Some(Open { anchor, content: Content::Map { entries, .. } }) => self.place(Node::Map(entries), anchor),
                None => Ok(()),
            },
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned().ok_or("an alias lies within its own anchor")?;
                self.spend(node.nodes())?;
                self.place(node, 0)
            }
            _ => Ok(()),
        }
    }

    fn spend(&mut self, nodes: usize) -> Result<(), String> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES { Err(format!("more than {MAX_NODES} values, aliases counted")) } else { Ok(()) }
    }

    /// Whether a key is what comes next: then it is `<<`.
    fn merge_key(&mut self) -> bool {
        match self.open.last_mut() {
            Some(Open { content: Content::Map { key: key @ None, .. }, .. }) => {
                *key = Some(Key::Merge);
                true
            }
            _ => false,
        }
    }

    fn place(&mut self, node: Node, anchor: usize) -> Result<(), String> {
        self.spend(1)?;
        if anchor != 0 {
            self.spend(node.nodes())?;
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open { content: Content::List(items), .. }) => items.push(node),
            Some(Open { content: Content::Map { entries, key }, .. }) => match key.take() {
                None => *key = Some(Key::Text(key_text(&node)?)),
                // Of a key that is given twice the last one holds.
                Some(Key::Text(key)) => drop(entries.insert(key, node)),
                Some(Key::Merge) => merge(entries, node)?,
            },
        }
        Ok(())
    }
}

/// Earlier keys are replaced, as with the original's parser; of several maps the first goes before.
fn merge(entries: &mut BTreeMap<String, Node>, node: Node) -> Result<(), String> {
    let maps = match node {
        Node::List(items) => items,
        one => vec![one],
    };
    for map in maps.into_iter().rev() {
        match map {
            Node::Map(map) => entries.extend(map),
            other => return Err(format!("<< wants a map or a list of maps, and there is {}", other.describe())),
        }
    }
    Ok(())
}

/// JSON has text for keys only, so the original's `n:` is `false:`.
fn key_text(node: &Node) -> Result<String, String> {
    match node {
        Node::Float(value) => Ok(go_float(*value, [".inf", "-.inf", ".nan"])),
        node => node.as_text().map(Cow::into_owned).ok_or_else(|| format!("{} is no key", node.describe())),
    }
}

/// A plain scalar's meaning. Source: go-yaml 2, which the original reads its settings with.
fn resolve(text: &str) -> Node {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Node::Bool(true),
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Node::Bool(false),
        "" | "~" | "null" | "Null" | "NULL" => Node::Null,
        ".nan" | ".NaN" | ".NAN" => Node::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Node::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Node::Float(f64::NEG_INFINITY),
        _ => number(text).unwrap_or_else(|| Node::Text(text.to_owned())),
    }
}

fn number(text: &str) -> Option<Node> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return None;
    }
    let plain = text.replace('_', "");
    integer(&plain).map(Node::Int).or_else(|| float(&plain).map(Node::Float))
}

/// Go's forms: `0x1f`, `0b1`, `0o17` and `017`, each with a sign.
fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.as_bytes() {
        [b'0', b'x', ..] => (16, &lower[2..]),
        [b'0', b'b', ..] => (2, &lower[2..]),
        [b'0', b'o', ..] => (8, &lower[2..]),
        [b'0', _, ..] => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return None;
    }
    let value = i128::from_str_radix(digits, radix).ok()?;
    let value = if negative { -value } else { value };
    // Only `ParseInt` takes a sign.
    let highest = if text.starts_with('+') { i128::from(i64::MAX) } else { i128::from(u64::MAX) };
    (i128::from(i64::MIN)..=highest).contains(&value).then_some(value)
}

/// `1.5`, `.5`, `1.`, `1e3`, `-1.5E-3`; one that is too large is text.
fn float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    // Rust reads these forms and no other, but for `inf` and `nan`.
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    text.parse().ok().filter(|value: &f64| value.is_finite())
}

/// Go's shortest `%g` with 32 bits, as the original converts. The names are those of infinity, minus infinity and no
/// number.
fn go_float(value: f64, [infinite, negative, nan]: [&str; 3]) -> String {
    let value = value as f32;
    if value.is_nan() {
        return nan.to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { infinite } else { negative }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) { value.to_string() } else { format!("{mantissa}e{exponent:+03}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> String {
        parse(value).unwrap().as_text().unwrap_or_else(|| panic!("{value}")).into_owned()
    }

    fn map(entries: &[(&str, Node)]) -> Node {
        Node::Map(entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
    }

    fn words(words: &[&str]) -> Node {
        Node::List(words.iter().map(|word| Node::Text((*word).to_owned())).collect())
    }

    #[test]
    fn booleans_are_those_of_yaml_1_1_in_their_cases_only() {
        for yes in ["y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON", "yes\n", "!!bool on"] {
            assert_eq!(parse(yes).unwrap(), Node::Bool(true), "{yes}");
        }
        for no in ["n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF", "  no # off"] {
            assert_eq!(parse(no).unwrap(), Node::Bool(false), "{no}");
        }
        for neither in ["yEs", "tRUE", "oN", "nope", "\"yes\"", "'no'", "|\n  yes", "!!str yes", "! yes"] {
            assert!(matches!(parse(neither).unwrap(), Node::Text(_)), "{neither}");
        }
        for nothing in ["", "~", "null", "NULL", "# only a comment\n"] {
            assert_eq!(parse(nothing).unwrap(), Node::Null, "{nothing}");
        }
    }

    /// Each right-hand side was printed by sigs.k8s.io/yaml 1.6 for a field that is a string.
    #[test]
    fn scalars_become_the_originals_text() {
        for (yaml, expected) in SCALARS {
            assert_eq!(text(yaml), expected, "{yaml}");
        }
    }

    const SCALARS: [(&str, &str); 81] = [
        ("5", "5"),
        ("0x1F", "31"),
        ("017", "15"),
        ("0o17", "15"),
        ("0b11", "3"),
        ("-0b11", "-3"),
        ("1_000", "1000"),
        ("08", "8"),
        ("09.5", "9.5"),
        ("1.50", "1.5"),
        ("1e3", "1000"),
        ("1E3", "1000"),
        ("1e21", "1e+21"),
        ("1234567.0", "1.234567e+06"),
        ("0.00001", "1e-05"),
        ("1.", "1"),
        ("+5", "5"),
        ("-5", "-5"),
        ("+0x1f", "31"),
        ("18446744073709551615", "18446744073709551615"),
        ("18446744073709551616", "1.8446744e+19"),
        ("+18446744073709551615", "1.8446744e+19"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("-9223372036854775809", "-9.223372e+18"),
        ("1.2.3", "1.2.3"),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("2001-12-14t21:59:43.10-05:00", "2001-12-14t21:59:43.10-05:00"),
        ("0x", "0x"),
        ("0b2", "0b2"),
        ("+", "+"),
        (".", "."),
        ("..", ".."),
        (".5", "0.5"),
        ("-.5", "-0.5"),
        ("+.5", "0.5"),
        (".5e2", "50"),
        ("1e", "1e"),
        ("1e400", "1e400"),
        (".nan", "NaN"),
        ("-.inf", "-Inf"),
        ("yes", "true"),
        ("No", "false"),
        ("on", "true"),
        ("y", "true"),
        ("~x", "~x"),
        ("=", "="),
        ("0_0", "0"),
        ("_1", "_1"),
        ("1__0", "10"),
        ("0x_1f", "31"),
        ("-0", "0"),
        ("-0.0", "-0"),
        ("1_0.5", "10.5"),
        ("0.1e-3", "0.0001"),
        ("n", "false"),
        ("12e03", "12000"),
        ("0e0", "0"),
        ("0o8", "0o8"),
        ("00", "0"),
        ("007", "7"),
        ("1e5", "100000"),
        ("1e6", "1e+06"),
        ("123456789.123", "1.2345679e+08"),
        ("5m", "5m"),
        ("0xg", "0xg"),
        ("-0x10", "-16"),
        ("-017", "-15"),
        ("!!int 5", "5"),
        ("!!float 5", "5"),
        ("!foo bar", "bar"),
        ("!!str 017", "017"),
        ("1,000", "1,000"),
        ("0X1f", "31"),
        ("0B11", "3"),
        ("0O17", "15"),
        (".5_0", "0.5"),
        ("1e1_0", "1e+10"),
        ("+.inf", "+Inf"),
        ("-.5e-3", "-0.0005"),
        ("5.e3", "5000"),
    ];

    #[test]
    fn the_last_of_a_key_given_twice_holds_and_keys_become_text() {
        assert_eq!(parse("a: x\na: z").unwrap(), map(&[("a", Node::Text("z".into()))]));
        let keys = parse("n: 1\n5: 1\n1.50: 1\n'y': 1\n.inf: 1").unwrap();
        let Node::Map(keys) = keys else { panic!() };
        assert_eq!(keys.keys().collect::<Vec<_>>(), [".inf", "1.5", "5", "false", "y"]);
        for no_key in ["~: 1", "[a]: 1", "? {a: b}\n: 1"] {
            let problem = parse(no_key).unwrap_err();
            assert!(problem.contains("is no key"), "{no_key}: {problem}");
        }
    }

    #[test]
    fn aliases_and_merge_keys_are_followed() {
        let read = parse("base: &b {x: [1], z: n}\nown: {z: on, <<: *b}\nalso: *b").unwrap();
        let base = map(&[("x", Node::List(vec![Node::Int(1)])), ("z", Node::Bool(false))]);
        assert_eq!(read, map(&[("base", base.clone()), ("own", base.clone()), ("also", base)]));
        let several = parse("<<: [{a: 1}, {a: 2, b: 3}]\nc: 4").unwrap();
        assert_eq!(several, map(&[("a", Node::Int(1)), ("b", Node::Int(3)), ("c", Node::Int(4))]));
        assert!(parse("<<: 5").unwrap_err().contains("the number 5"));
        assert_eq!(parse("- <<").unwrap(), words(&["<<"]));
    }

    #[test]
    fn a_file_is_read_as_below_its_key() {
        assert_eq!(parse("a\nb\n").unwrap(), Node::Text("a b".into()));
        assert_eq!(parse("- a\r\n- b\r\n").unwrap(), words(&["a", "b"]));
        assert_eq!(parse("[a,\nb]").unwrap(), words(&["a", "b"]));
        assert_eq!(parse("%a").ok(), None, "a directive is no plain text either");
    }

    #[test]
    fn what_is_no_yaml_says_where() {
        let problem = parse("fast:\n  hostDir: [a\nslow: b\n").unwrap_err();
        assert!(problem.starts_with("line "), "{problem}");
        assert!(parse("a: *nowhere").is_err());
        assert!(parse("a: &a [*a]").is_err());
    }

    #[test]
    fn aliases_cannot_eat_the_memory() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..10 {
            bomb += &format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", "));
        }
        assert!(parse(&bomb).unwrap_err().contains("aliases counted"));
        let mut deep = "a0: &a0 [x]\n".to_owned();
        for n in 1..20_000 {
            deep += &format!("a{n}: &a{n} [*a{}]\n", n - 1);
        }
        assert!(parse(&deep).unwrap_err().contains("aliases counted"));
    }
}
