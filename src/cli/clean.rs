//! The arguments of `clean`: what the command of a cleanup Job says, and the variables that the Job sets.

use super::{UsageError, bandwidth};
use crate::model::device::Evidence;
use crate::model::discovery::Cleaner;
use clap::Args;
use std::path::PathBuf;

pub(super) const AFTER_HELP: &str = "\
Methods, by these names or by the original's paths (/scripts/shred.sh):

  quick_reset       zero both ends, where signatures stand: data between them stays readable
  zero [N=1]        zero every byte, N times, by the fastest way that guarantees it (also: dd_zero)
  shred [N=3]       N passes of random bytes, then one of zeros
  discard           discard, read back, and zero what does not read zero
  blkdiscard        discard and believe it: nothing is read back
  secure-discard    discard securely, on devices that can, and believe it
  fsclean           empty the directory in LOCAL_PV_FILESYSTEM, a mount point; a mount below it
                    keeps all of it as it is

The device is opened exclusively and refused while anything uses it, and so is a directory. Neither
the cluster nor the agent's ledger is asked: the device of a bound volume that no pod uses at the
moment is cleaned as well.

Exit codes: 0 when it is cleaned, and was read back unless the method is believed; 1 when it is not;
2 for bad arguments. SIGTERM ends it between two chunks.";

#[derive(Debug, Args)]
pub(super) struct CleanArgs {
    /// How to clean, and for some methods how often
    #[arg(value_name = "METHOD [N]", num_args = 0.., required = false)]
    method: Vec<String>,
    /// The block device
    #[arg(long, env = "LOCAL_PV_BLKDEVICE", value_name = "PATH", default_value = "", hide_default_value = true)]
    device: String,
    /// The directory, for fsclean
    #[arg(long, env = "LOCAL_PV_FILESYSTEM", value_name = "PATH", default_value = "", hide_default_value = true)]
    filesystem: String,
    /// What was known of the device when it was decided to clean it, as the agent writes it: no other one is written
    #[arg(long, env = "LP_CLEAN_EVIDENCE", value_name = "JSON", default_value = "", hide_default_value = true)]
    evidence: String,
    /// How much to write in a second, as 100Mi; empty or 0: no limit
    #[arg(long, env = "LP_CLEAN_BANDWIDTH", value_name = "QUANTITY", default_value = "", hide_default_value = true)]
    clean_bandwidth: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CleanOptions {
    pub cleaner: Cleaner,
    /// A block device; with [`Cleaner::Empty`] a directory.
    pub path: PathBuf,
    /// What the device must be; `None`: what it is found to be.
    pub evidence: Option<Evidence>,
    /// Bytes a second.
    pub bandwidth: Option<u64>,
}

pub(super) fn options(args: CleanArgs) -> Result<CleanOptions, UsageError> {
    if args.method.is_empty() {
        return Err(UsageError("METHOD is missing: clean quick_reset, clean shred 3; see clean --help".to_owned()));
    }
    let cleaner = Cleaner::of_command(&args.method).map_err(|error| UsageError(error.to_string()))?;
    let (path, flag, variable) = match cleaner {
        Cleaner::Command(_) => {
            return Err(UsageError(format!("\"{}\" is not a built-in method; see clean --help", args.method[0])));
        }
        Cleaner::Empty => (args.filesystem, "filesystem", "LOCAL_PV_FILESYSTEM"),
        _ => (args.device, "device", "LOCAL_PV_BLKDEVICE"),
    };
    if path.is_empty() {
        return Err(UsageError(format!("--{flag} ({variable}): required: the path of what is to be cleaned")));
    }
    let evidence = match args.evidence.as_str() {
        "" => None,
        text => Some(serde_json::from_str(text).map_err(|problem| {
            UsageError(format!("--evidence (LP_CLEAN_EVIDENCE): not as the agent writes it: {problem}"))
        })?),
    };
    Ok(CleanOptions { cleaner, path: path.into(), evidence, bandwidth: bandwidth(&args.clean_bandwidth)? })
}

#[cfg(test)]
mod tests {
    use super::super::{Invocation, Surroundings, parse};
    use super::*;
    use std::ffi::OsString;

    fn parsed(arguments: &[&str]) -> Result<CleanOptions, String> {
        let all = ["local-pv-provisioner", "clean"].iter().chain(arguments).map(OsString::from);
        match parse(all, &Surroundings { in_pod: true, ..Surroundings::default() }) {
            Ok(Invocation::Clean(options)) => Ok(options),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_commands_of_the_originals_jobs_are_taken_as_they_are() {
        let path = PathBuf::from("/mnt/raw/vol1");
        let cleaner = Cleaner::Shred { passes: 2 };
        let shred = CleanOptions { cleaner, path: path.clone(), evidence: None, bandwidth: None };
        assert_eq!(parsed(&["--device=/mnt/raw/vol1", "/scripts/shred.sh", "2"]), Ok(shred.clone()));
        assert_eq!(parsed(&["--device=/mnt/raw/vol1", "shred", "2"]), Ok(shred));
        let limited = parsed(&["--device=/x", "--clean-bandwidth=1Mi", "zero"]).unwrap();
        assert_eq!((limited.cleaner, limited.bandwidth), (Cleaner::Zero { passes: 1 }, Some(1 << 20)));
        let emptied = parsed(&["--filesystem=/mnt/fast/vol1", "fsclean"]).unwrap();
        assert_eq!((emptied.cleaner, emptied.path), (Cleaner::Empty, "/mnt/fast/vol1".into()));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named_on_one_line() {
        for (arguments, named) in [
            (&["zero"][..], "LOCAL_PV_BLKDEVICE"),
            (&["fsclean", "--device=/x"], "LOCAL_PV_FILESYSTEM"),
            (&["shred", "0", "--device=/x"], "\"0\""),
            (&["quick_reset", "now", "--device=/x"], "\"now\""),
            (&["/scripts/mine.sh", "--device=/x"], "/scripts/mine.sh"),
            (&["zero", "--device=/x", "--clean-bandwidth=fast"], "LP_CLEAN_BANDWIDTH"),
            (&["zero", "--device=/x", "--evidence={\"boot_id\":1}"], "LP_CLEAN_EVIDENCE"),
            (&[], "METHOD"),
        ] {
            let error = parsed(arguments).unwrap_err();
            assert!(error.contains(named) && error.lines().count() == 1, "{arguments:?}: {error}");
        }
    }
}
