//! `namePattern`: which names in a discovery directory are meant. Go's `filepath.Match`, several separated by commas.

/// A list of patterns, of which one must match the whole name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePattern(pub Vec<String>);

impl NamePattern {
    pub fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        self.0.iter().any(|pattern| matches(&pattern.chars().collect::<Vec<_>>(), &name))
    }
}

/// A pattern that is not well formed matches nothing.
fn matches(pattern: &[char], name: &[char]) -> bool {
    let (mut at, mut read) = (0, 0);
    // Where the last star stands, and how much of the name it has taken so far.
    let mut star: Option<(usize, usize)> = None;
    loop {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at + 1, read));
                at += 1;
                continue;
            }
            None if read == name.len() => return true,
            Some(_) if read < name.len() => {
                if let Some(next) = one(&pattern[at..], name[read]) {
                    at += next;
                    read += 1;
                    continue;
                }
            }
            _ => {}
        }
        // One more character for the star, if it may have it.
        match star {
            Some((after, taken)) if taken < name.len() && name[taken] != '/' => {
                star = Some((after, taken + 1));
                (at, read) = (after, taken + 1);
            }
            _ => return false,
        }
    }
}

/// How much of the pattern matches this one character.
fn one(pattern: &[char], c: char) -> Option<usize> {
    match pattern {
        ['?', ..] => (c != '/').then_some(1),
        ['\\', literal, ..] => (*literal == c).then_some(2),
        ['\\'] => None,
        ['[', rest @ ..] => {
            let (negated, mut rest) = match rest {
                ['^', rest @ ..] => (true, rest),
                _ => (false, rest),
            };
            let mut found = false;
            let mut first = true;
            loop {
                if let [']', after @ ..] = rest
                    && !first
                {
                    return (found != negated).then_some(pattern.len() - after.len());
                }
                first = false;
                let low = bound(&mut rest)?;
                let high = match rest {
                    ['-', after @ ..] => {
                        rest = after;
                        bound(&mut rest)?
                    }
                    _ => low,
                };
                found |= (low..=high).contains(&c);
            }
        }
        [literal, ..] => (*literal == c).then_some(1),
        [] => None,
    }
}

fn bound(rest: &mut &[char]) -> Option<char> {
    let (c, after) = match *rest {
        ['\\', c, after @ ..] => (*c, after),
        ['\\' | '-' | ']', ..] | [] => return None,
        [c, after @ ..] => (*c, after),
    };
    *rest = after;
    Some(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names_as_in_go() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("*", ".hidden", true),
            ("nvme*", "nvme0n1", true),
            ("nvme*", "xnvme0", false),
            ("*b*d", "abcbcd", true),
            ("*b*d", "abcbc", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "\u{e9}x", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("[\\]]", "]", true),
            ("[]a]", "a", false),
            ("[a", "a", false),
            ("a\\", "a", false),
            ("", "", true),
            ("a", "ab", false),
        ] {
            assert_eq!(NamePattern(vec![pattern.to_owned()]).matches(name), expected, "{pattern} {name}");
        }
        let either = NamePattern(vec!["ssd*".to_owned(), "nvme*".to_owned()]);
        assert!(either.matches("nvme0") && either.matches("ssd") && !either.matches("hdd"));
        assert!(!NamePattern(Vec::new()).matches("a"));
    }
}
