//! `namePattern`: which names in a discovery directory are meant. Go's `filepath.Match`, several separated by commas.
//! Knows names only, never paths: no name has a slash in it.

/// A list of patterns, of which one must match the whole name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePattern(Vec<Vec<Part>>);

impl NamePattern {
    /// `nvme*,ssd?`: empty items are skipped, and nothing is trimmed. The error says which item is wrong, and why.
    pub fn parse(text: &str) -> Result<NamePattern, String> {
        text.split(',').filter(|item| !item.is_empty()).map(parts).collect::<Result<_, _>>().map(NamePattern)
    }

    /// Matches no name.
    pub fn none() -> NamePattern {
        NamePattern(Vec::new())
    }

    pub fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|parts| fits(parts, name))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// `*`
    Star,
    /// `?`
    Any,
    Char(char),
    /// `[a-z]`, `[^x]`: ranges with both ends in them.
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Part {
    fn takes(&self, c: char) -> bool {
        match self {
            Part::Star | Part::Any => true,
            Part::Char(own) => *own == c,
            Part::Class { negated, ranges } => ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated,
        }
    }
}

fn parts(item: &str) -> Result<Vec<Part>, String> {
    let bad = |problem: &str| format!("\"{item}\" is no pattern: {problem}");
    let mut rest = item.chars();
    let mut parts = Vec::new();
    while let Some(c) = rest.next() {
        parts.push(match c {
            '*' => Part::Star,
            '?' => Part::Any,
            '\\' => Part::Char(rest.next().ok_or_else(|| bad("nothing follows the last backslash"))?),
            '[' => {
                let inner = rest.as_str();
                let negated = inner.starts_with('^');
                rest = inner.strip_prefix('^').unwrap_or(inner).chars();
                Part::Class { negated, ranges: ranges(&mut rest).map_err(bad)? }
            }
            c => Part::Char(c),
        });
    }
    Ok(parts)
}

/// Up to the closing bracket, which is taken.
fn ranges(rest: &mut std::str::Chars) -> Result<Vec<(char, char)>, &'static str> {
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && rest.as_str().starts_with(']') {
            rest.next();
            return Ok(ranges);
        }
        let low = end_of_range(rest)?;
        let high = if rest.as_str().starts_with('-') {
            rest.next();
            end_of_range(rest)?
        } else {
            low
        };
        ranges.push((low, high));
    }
}

fn end_of_range(rest: &mut std::str::Chars) -> Result<char, &'static str> {
    const OPEN: &str = "a [ is not closed";
    match rest.next().ok_or(OPEN)? {
        '-' => Err("a - in [ ] has nothing before or after it; write \\-"),
        ']' => Err("[ ] is empty, or a range in it has no end"),
        '\\' => rest.next().ok_or(OPEN),
        c => Ok(c),
    }
}

/// Goes back to the last star only: an earlier one could reach nothing more.
fn fits(parts: &[Part], name: &str) -> bool {
    let (mut at, mut rest) = (0, name.chars());
    let mut back: Option<(usize, std::str::Chars)> = None;
    loop {
        let before = rest.clone();
        match (parts.get(at), rest.next()) {
            (Some(Part::Star), _) => {
                at += 1;
                rest = before.clone();
                back = Some((at, before));
            }
            (None, None) => return true,
            (Some(part), Some(c)) if part.takes(c) => at += 1,
            _ => {
                // The star takes one character more, if there is one.
                let Some((after, taken)) = &mut back else { return false };
                if taken.next().is_none() {
                    return false;
                }
                (at, rest) = (*after, taken.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        NamePattern::parse(pattern).unwrap().matches(name)
    }

    /// From the tests of Go's path/filepath: (pattern, name, matches; `None`: no pattern). A comma separates here.
    const GO: [(&str, &str, Option<bool>); 47] = [
        ("abc", "abc", Some(true)),
        ("*", "abc", Some(true)),
        ("*c", "abc", Some(true)),
        ("a*", "a", Some(true)),
        ("a*", "abc", Some(true)),
        ("a*b*c*d*e*", "axbxcxdxe", Some(true)),
        ("a*b*c*d*e*", "axbxcxdxexxx", Some(true)),
        ("a*b?c*x", "abxbbxdbxebxczzx", Some(true)),
        ("a*b?c*x", "abxbbxdbxebxczzy", Some(false)),
        ("ab[c]", "abc", Some(true)),
        ("ab[b-d]", "abc", Some(true)),
        ("ab[e-g]", "abc", Some(false)),
        ("ab[^c]", "abc", Some(false)),
        ("ab[^b-d]", "abc", Some(false)),
        ("ab[^e-g]", "abc", Some(true)),
        ("a\\*b", "a*b", Some(true)),
        ("a\\*b", "ab", Some(false)),
        ("a?b", "a☺b", Some(true)),
        ("a[^a]b", "a☺b", Some(true)),
        ("a???b", "a☺b", Some(false)),
        ("a[^a][^a][^a]b", "a☺b", Some(false)),
        ("[a-ζ]*", "α", Some(true)),
        ("*[a-ζ]", "A", Some(false)),
        ("[\\]a]", "]", Some(true)),
        ("[\\-]", "-", Some(true)),
        ("[x\\-]", "x", Some(true)),
        ("[x\\-]", "-", Some(true)),
        ("[x\\-]", "z", Some(false)),
        ("[\\-x]", "x", Some(true)),
        ("[\\-x]", "-", Some(true)),
        ("[\\-x]", "a", Some(false)),
        ("[]a]", "]", None),
        ("[-]", "-", None),
        ("[x-]", "x", None),
        ("[x-]", "-", None),
        ("[-x]", "x", None),
        ("\\", "a", None),
        ("[a-b-c]", "a", None),
        ("[", "a", None),
        ("[^", "a", None),
        ("[^bc", "a", None),
        ("a[", "a", None),
        ("a[", "ab", None),
        ("a[", "x", None),
        ("*x", "xxx", Some(true)),
        ("[z-a]", "k", Some(false)),
        ("[!a]", "b", Some(false)),
    ];

    #[test]
    fn gos_documented_examples_hold() {
        for (pattern, name, expected) in GO {
            let found = NamePattern::parse(pattern).ok().map(|parsed| parsed.matches(name));
            assert_eq!(found, expected, "{pattern} {name}");
        }
    }

    #[test]
    fn one_of_a_list_is_enough_and_nothing_is_trimmed() {
        assert!(matches("nvme*,ssd*", "nvme0") && matches("nvme*,ssd*", "ssd1") && !matches("nvme*,ssd*", "sda"));
        assert!(matches(",,a,", "a") && !matches(",,a,", ""));
        assert!(matches("a, b", " b") && !matches("a, b", "b"));
        assert!(!matches(",", "") && !matches(",", "a"), "a list of nothing matches nothing");
        assert!(!NamePattern::none().matches(""));
    }

    #[test]
    fn a_bad_item_is_named() {
        assert!(NamePattern::parse("ok*,[a").unwrap_err().contains("\"[a\""));
    }

    /// The definition, without any thought for speed.
    fn by_definition(parts: &[Part], name: &[char]) -> bool {
        match parts.split_first() {
            None => name.is_empty(),
            Some((Part::Star, left)) => (0..=name.len()).any(|taken| by_definition(left, &name[taken..])),
            Some((part, left)) => {
                name.split_first().is_some_and(|(c, name)| part.takes(*c) && by_definition(left, name))
            }
        }
    }

    #[test]
    fn matching_is_what_the_definition_says_for_any_pattern_and_name() {
        // A small alphabet, so that about half of them match.
        let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut next = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let mut matched = 0;
        for _ in 0..20_000 {
            let mut pattern = String::new();
            for _ in 0..next(6) {
                pattern += ["*", "?", "a", "b", "[ab]", "[^a]", "[a-c]", "\\*"][next(8) as usize];
            }
            let name: String = (0..next(7)).map(|_| ['a', 'b', 'c', '*'][next(4) as usize]).collect();
            let parts = parts(&pattern).unwrap();
            let expected = by_definition(&parts, &name.chars().collect::<Vec<_>>());
            assert_eq!(fits(&parts, &name), expected, "{pattern} {name}");
            matched += u32::from(expected);
        }
        assert!((2_000..18_000).contains(&matched), "{matched}");
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        assert!(!matches(&"*a".repeat(100), &format!("{}b", "a".repeat(5_000))));
    }
}
