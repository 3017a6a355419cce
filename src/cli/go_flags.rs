//! Command lines in the forms of Go's `flag` package: long flags with one dash become clap's, and klog's are taken out.
//! Knows nothing of what our own flags mean.

use super::UsageError;
use log::LevelFilter;
use std::ffi::OsString;

/// klog's flags that take a value, which may be the next argument.
const WITH_VALUE: [&str; 7] = [
    "vmodule",
    "alsologtostderrthreshold",
    "stderrthreshold",
    "log_dir",
    "log_file",
    "log_file_max_size",
    "log_backtrace_at",
];
/// klog's booleans: a value follows `=`, or none.
const BOOLEAN: [&str; 7] = [
    "logtostderr",
    "alsologtostderr",
    "legacy_stderr_threshold_behavior",
    "add_dir_header",
    "skip_headers",
    "skip_log_headers",
    "one_output",
];
const VERBOSITY: &str = "v";
/// From these on klog shows what we log at the level.
const DEBUG_FROM: i32 = 4;
const TRACE_FROM: i32 = 7;

/// What klog's flags said.
#[derive(Debug, Default)]
pub struct Klog {
    /// As they were given, without values that stood apart.
    given: Vec<String>,
    ignored: Vec<&'static str>,
    verbosity: i32,
}

impl Klog {
    /// The level to log at, where `-v` asks for more than this one.
    pub fn raise(&self, level: LevelFilter) -> LevelFilter {
        match self.verbosity {
            TRACE_FROM.. => LevelFilter::Trace,
            DEBUG_FROM.. => level.max(LevelFilter::Debug),
            _ => level,
        }
    }

    /// One warning for all that have no meaning here.
    pub fn warning(&self) -> Option<String> {
        let names: Vec<String> = self.ignored.iter().map(|name| format!("-{name}")).collect();
        (!names.is_empty()).then(|| format!("klog's flags are ignored but for -v, remove them: {}", names.join(", ")))
    }

    /// For programs that are not the one which has them.
    pub fn refuse(&self) -> Result<(), UsageError> {
        match self.given.first() {
            Some(given) => Err(UsageError(format!("unexpected argument '{given}' found; see --help"))),
            None => Ok(()),
        }
    }
}

/// Up to `--`. A long flag with one dash gets the second where `known` has its name, so that short flags keep working.
pub fn normalise(arguments: Vec<OsString>, known: impl Fn(&str) -> bool) -> Result<(Vec<OsString>, Klog), UsageError> {
    let mut klog = Klog::default();
    let mut kept = Vec::new();
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        if argument == "--" {
            kept.push(argument);
            kept.extend(rest);
            break;
        }
        let Some((dashes, flag)) = argument.to_str().and_then(split_dashes) else {
            kept.push(argument);
            continue;
        };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        if let Some(name) = BOOLEAN.iter().find(|boolean| **boolean == name) {
            klog.given.push(format!("{dashes}{flag}"));
            klog.ignored.push(name);
        } else if name == VERBOSITY || WITH_VALUE.contains(&name) {
            klog.given.push(format!("{dashes}{flag}"));
            let value = match value {
                Some(value) => value,
                None => rest
                    .next()
                    .and_then(|next| next.into_string().ok())
                    .ok_or_else(|| UsageError(format!("{dashes}{name}: a value is missing; see --help")))?,
            };
            match WITH_VALUE.iter().find(|known| **known == name) {
                Some(name) => klog.ignored.push(name),
                None => {
                    klog.verbosity = value
                        .parse()
                        .map_err(|_| UsageError(format!("{dashes}{name}: \"{value}\" is no number; see --help")))?;
                }
            }
        } else if dashes == "-" && known(name) {
            kept.push(format!("--{flag}").into());
        } else {
            kept.push(argument);
        }
    }
    Ok((kept, klog))
}

fn split_dashes(argument: &str) -> Option<(&'static str, &str)> {
    if let Some(flag) = argument.strip_prefix("--") {
        return Some(("--", flag));
    }
    argument.strip_prefix('-').map(|flag| ("-", flag))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(line: &str) -> (String, Klog) {
        let arguments = line.split_whitespace().map(OsString::from).collect();
        let (kept, klog) = normalise(arguments, |name| ["listen-address", "output"].contains(&name)).unwrap();
        (kept.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" "), klog)
    }

    #[test]
    fn long_flags_may_have_one_dash_and_short_ones_stay() {
        for (line, kept) in [
            ("x -listen-address :80", "x --listen-address :80"),
            ("x -listen-address=:80 --listen-address :81", "x --listen-address=:80 --listen-address :81"),
            ("x -o yaml -oyaml -V -h", "x -o yaml -oyaml -V -h"),
            ("x -listen", "x -listen"),
            ("x -- -listen-address -v=4", "x -- -listen-address -v=4"),
            ("x - --", "x - --"),
        ] {
            let (found, klog) = normal(line);
            assert_eq!(found, kept);
            assert!(klog.refuse().is_ok() && klog.warning().is_none());
        }
    }

    #[test]
    fn verbosity_raises_the_level_and_never_lowers_it() {
        for (line, info, trace) in [
            ("x -v=4", LevelFilter::Debug, LevelFilter::Trace),
            ("x --v 5", LevelFilter::Debug, LevelFilter::Trace),
            ("x -v 7", LevelFilter::Trace, LevelFilter::Trace),
            ("x --v=10", LevelFilter::Trace, LevelFilter::Trace),
            ("x -v=3", LevelFilter::Info, LevelFilter::Trace),
            ("x -v=0", LevelFilter::Info, LevelFilter::Trace),
            ("x -v=9 -v=2", LevelFilter::Info, LevelFilter::Trace),
        ] {
            let (kept, klog) = normal(line);
            assert_eq!(
                (kept.as_str(), klog.raise(LevelFilter::Info), klog.raise(LevelFilter::Trace)),
                ("x", info, trace)
            );
            assert!(klog.warning().is_none());
        }
    }

    #[test]
    fn klogs_other_flags_are_named_in_one_warning() {
        let (kept, klog) =
            normal("x -logtostderr --log_dir /tmp -vmodule=a=1 --stderrthreshold INFO -one_output=false y");
        assert_eq!(kept, "x y");
        let warning = klog.warning().unwrap();
        assert!(warning.ends_with("-logtostderr, -log_dir, -vmodule, -stderrthreshold, -one_output"), "{warning}");
        assert_eq!(klog.refuse().unwrap_err().to_string(), "unexpected argument '-logtostderr' found; see --help");
        for flag in WITH_VALUE.iter().chain(&BOOLEAN) {
            assert_eq!(normal(&format!("x --{flag}=1")).0, "x", "{flag}");
        }
    }

    #[test]
    fn a_value_that_is_missing_or_no_number_is_an_error() {
        for line in ["x -v", "x -v=four", "x --log_dir"] {
            let arguments = line.split_whitespace().map(OsString::from).collect();
            assert!(normalise(arguments, |_| false).is_err(), "{line}");
        }
    }
}
