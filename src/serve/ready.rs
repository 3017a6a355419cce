//! `/ready` and its check as the sig-storage local static provisioner answers them, byte for byte: probes and scripts
//! made for it read these bodies. It is pure, and it withholds the reason as the original does; `/status` has it.

use super::front::Answer;
use std::collections::BTreeSet;

pub(super) const PAGE: &str = "/ready";
pub(super) const CHECK_PAGE: &str = "/ready/DiscovererReadyzCheck";

const CHECK: &str = "DiscovererReadyzCheck";

/// `/ready`. Of the query it understands `verbose` and `exclude=CHECK`, as often as they come.
pub(super) fn page(query: &str, ready: bool) -> Answer {
    let fields = || query.split('&').map(|field| field.split_once('=').unwrap_or((field, "")));
    let mut excluded: BTreeSet<&str> =
        fields().filter(|(name, _)| *name == "exclude").map(|(_, check)| check).collect();
    let (mark, said, passed) = match (excluded.remove(CHECK), ready) {
        (true, _) => ('+', "excluded: ok", true),
        (false, true) => ('+', "ok", true),
        (false, false) => ('-', "failed: reason withheld", false),
    };
    if passed && !fields().any(|(name, _)| name == "verbose") {
        return Answer::plain(200, "ok");
    }
    let mut body = format!("[{mark}]{CHECK} {said}\n");
    if !excluded.is_empty() {
        let names: Vec<String> = excluded.iter().map(|name| format!("{name:?}")).collect();
        body += &format!("warn: some health checks cannot be excluded: no matches for {}\n", names.join(","));
    }
    if passed {
        Answer::plain(200, body + "ready check passed\n")
    } else {
        Answer::plain(500, body + "ready check failed\n")
    }
}

/// The check alone.
pub(super) fn check_page(ready: bool) -> Answer {
    if ready { Answer::plain(200, "ok") } else { Answer::text(500, "internal server error: discovererNotReady") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(query: &str, ready: bool) -> (u16, String) {
        let answer = page(query, ready);
        (answer.status, String::from_utf8(answer.body).unwrap())
    }

    #[test]
    fn a_ready_discovery_is_one_word_and_a_list_on_demand() {
        let list = "[+]DiscovererReadyzCheck ok\nready check passed\n";
        for (query, body) in [
            ("", "ok"),
            ("other=1&verbos", "ok"),
            ("verbose", list),
            ("verbose=false", list),
            ("a&verbose=1&b", list),
            ("exclude=ping", "ok"),
        ] {
            assert_eq!(said(query, true), (200, body.to_owned()), "{query}");
        }
    }

    #[test]
    fn a_discovery_that_is_not_ready_always_shows_the_list() {
        let list = "[-]DiscovererReadyzCheck failed: reason withheld\nready check failed\n";
        for query in ["", "verbose", "exclude"] {
            let (code, body) = said(query, false);
            let without_warning: String = body.split_inclusive('\n').filter(|line| !line.starts_with("warn")).collect();
            assert_eq!((code, without_warning.as_str()), (500, list), "{query}");
        }
    }

    #[test]
    fn an_excluded_check_counts_as_passed_and_an_unknown_one_is_named() {
        assert_eq!(said("exclude=DiscovererReadyzCheck", false), (200, "ok".to_owned()));
        assert_eq!(
            said("verbose&exclude=DiscovererReadyzCheck", false).1,
            "[+]DiscovererReadyzCheck excluded: ok\nready check passed\n"
        );
        assert_eq!(
            said("exclude=b&exclude=a&exclude=b", false).1,
            "[-]DiscovererReadyzCheck failed: reason withheld\n\
             warn: some health checks cannot be excluded: no matches for \"a\",\"b\"\n\
             ready check failed\n"
        );
    }
}
