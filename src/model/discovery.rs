//! The words of discovery directories: what an entry of one is, and how a class has its volumes cleaned.

use super::cleaning::Cleaning;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What makes a path a volume of a discovery directory. Raw devices have none of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discovered {
    /// The StorageClass in whose directory it lies.
    pub class: String,
    /// Where this process finds it: below the class's `mountDir`. The PersistentVolume names it below `hostDir`.
    pub at: PathBuf,
}

/// One discovery directory, as a look needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveryDir {
    pub class: String,
    /// The directory's name on the host, which PersistentVolumes carry.
    pub host_dir: PathBuf,
    /// The same directory as this process sees it.
    pub mount_dir: PathBuf,
    pub names: super::name_pattern::NamePattern,
    /// What the cleaning of its block devices covers: of that they are read to tell whether they are blank.
    pub covers: Cleaning,
}

/// How a volume is cleaned after its release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cleaner {
    /// Everything below the directory is removed; the directory itself stays.
    Empty,
    /// Signatures and metadata at both ends are made zero: what lies between stays readable.
    QuickReset,
    /// Every byte is made zero, so many times.
    Zero { passes: u32 },
    /// So many passes of random bytes, then one of zeros.
    Shred { passes: u32 },
    /// The device is told that every block is free. `verified`: it is read back, and made zero where it is not.
    Discard { verified: bool },
    /// The device is told to erase every block.
    SecureDiscard,
    /// A program of the image is started as it is given.
    Command(Vec<String>),
}

/// The most passes that a class may ask for; more are a slip of the pen, and take weeks on any disk.
pub const PASSES_MAX: u32 = 100;

/// What `/scripts/shred.sh` does without a number.
const SHRED_PASSES: u32 = 3;

/// Where the original keeps its scripts.
const SCRIPTS: &str = "/scripts/";

/// Why a `blockCleanerCommand` names no way to clean.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CleanerError {
    #[error("the command is empty: name a method such as quick_reset, or a program")]
    Empty,
    #[error("{method} takes a number of passes from 1 to {PASSES_MAX}, not \"{given}\"")]
    Passes { method: String, given: String },
    #[error("{method} takes no argument \"{given}\"")]
    Argument { method: String, given: String },
}

impl Cleaner {
    /// Which of a device's bytes it cleans, in the terms of raw devices.
    pub fn covers(&self) -> Cleaning {
        if *self == Cleaner::QuickReset { Cleaning::Quick } else { Cleaning::Zero }
    }

    /// Whether a look at what it covers finds nothing afterwards. Of the others their word is all there is.
    pub fn leaves_nothing(&self) -> bool {
        match self {
            Cleaner::Empty | Cleaner::QuickReset | Cleaner::Zero { .. } | Cleaner::Shred { .. } => true,
            Cleaner::Discard { verified } => *verified,
            Cleaner::SecureDiscard | Cleaner::Command(_) => false,
        }
    }

    /// What a `blockCleanerCommand` asks for. The original's scripts, by path or by name, are built in, and so are
    /// `zero`, `discard` and `secure-discard`; everything else is a program.
    pub fn of_command(argv: &[String]) -> Result<Cleaner, CleanerError> {
        let (method, arguments) = argv.split_first().ok_or(CleanerError::Empty)?;
        if method.is_empty() {
            return Err(CleanerError::Empty);
        }
        let script = method.strip_prefix(SCRIPTS).and_then(|name| name.strip_suffix(".sh"));
        let (cleaner, numbered) = match script.unwrap_or(method) {
            "quick_reset" => (Cleaner::QuickReset, false),
            "shred" => (Cleaner::Shred { passes: SHRED_PASSES }, true),
            "dd_zero" => (Cleaner::Zero { passes: 1 }, true),
            "blkdiscard" => (Cleaner::Discard { verified: false }, false),
            "fsclean" => (Cleaner::Empty, false),
            "zero" if script.is_none() => (Cleaner::Zero { passes: 1 }, true),
            "discard" if script.is_none() => (Cleaner::Discard { verified: true }, false),
            "secure-discard" if script.is_none() => (Cleaner::SecureDiscard, false),
            _ => return Ok(Cleaner::Command(argv.to_vec())),
        };
        let (number, rest) = arguments.split_at(usize::from(numbered).min(arguments.len()));
        if let Some(given) = rest.first() {
            return Err(CleanerError::Argument { method: method.clone(), given: given.clone() });
        }
        let Some(given) = number.first() else { return Ok(cleaner) };
        let passes = given.parse().ok().filter(|passes| (1..=PASSES_MAX).contains(passes));
        let passes = passes.ok_or_else(|| CleanerError::Passes { method: method.clone(), given: given.clone() })?;
        Ok(match cleaner {
            Cleaner::Shred { .. } => Cleaner::Shred { passes },
            _ => Cleaner::Zero { passes },
        })
    }

    /// The command that [`Cleaner::of_command`] reads so.
    pub fn command(&self) -> Vec<String> {
        let (method, passes) = match self {
            Cleaner::Empty => ("fsclean", None),
            Cleaner::QuickReset => ("quick_reset", None),
            Cleaner::Zero { passes } => ("zero", Some(passes)),
            Cleaner::Shred { passes } => ("shred", Some(passes)),
            Cleaner::Discard { verified: true } => ("discard", None),
            Cleaner::Discard { verified: false } => ("blkdiscard", None),
            Cleaner::SecureDiscard => ("secure-discard", None),
            Cleaner::Command(argv) => return argv.clone(),
        };
        std::iter::once(method.to_owned()).chain(passes.map(u32::to_string)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(command: &str) -> Result<Cleaner, CleanerError> {
        Cleaner::of_command(&command.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn the_originals_scripts_are_built_in_by_path_and_by_name() {
        for (name, cleaner) in [
            ("quick_reset", Cleaner::QuickReset),
            ("shred", Cleaner::Shred { passes: 3 }),
            ("dd_zero", Cleaner::Zero { passes: 1 }),
            ("blkdiscard", Cleaner::Discard { verified: false }),
            ("fsclean", Cleaner::Empty),
        ] {
            assert_eq!(of(name), Ok(cleaner.clone()));
            assert_eq!(of(&format!("/scripts/{name}.sh")), Ok(cleaner));
        }
        for (name, passes) in [("shred", 2), ("/scripts/shred.sh", 1), ("/scripts/shred.sh", 100)] {
            assert_eq!(of(&format!("{name} {passes}")), Ok(Cleaner::Shred { passes }));
        }
        assert_eq!(of("/scripts/dd_zero.sh 7"), Ok(Cleaner::Zero { passes: 7 }));
    }

    #[test]
    fn our_own_methods_have_names_only() {
        assert_eq!(of("zero"), Ok(Cleaner::Zero { passes: 1 }));
        assert_eq!(of("zero 2"), Ok(Cleaner::Zero { passes: 2 }));
        assert_eq!(of("discard"), Ok(Cleaner::Discard { verified: true }));
        assert_eq!(of("secure-discard"), Ok(Cleaner::SecureDiscard));
        assert!(matches!(of("/scripts/zero.sh"), Ok(Cleaner::Command(_))), "the original has no such script");
    }

    #[test]
    fn a_cleaner_and_its_command_mean_each_other() {
        for command in
            ["fsclean", "quick_reset", "zero 2", "shred 7", "discard", "blkdiscard", "secure-discard", "/x a"]
        {
            assert_eq!(of(command).unwrap().command().join(" "), command);
        }
    }

    #[test]
    fn anything_else_is_a_program_as_it_is_given() {
        for command in ["/scripts/mine.sh a b", "/usr/bin/shred -n 1", "mkfs.xfs", "/scripts/shred", "shred.sh"] {
            let argv = command.split_whitespace().map(str::to_owned).collect();
            assert_eq!(of(command), Ok(Cleaner::Command(argv)));
        }
    }

    #[test]
    fn a_bad_or_superfluous_argument_is_named() {
        for command in ["shred 0", "shred -1", "/scripts/shred.sh many", "dd_zero 101", "zero 1.5", "shred -n"] {
            let (method, given) = command.split_once(' ').unwrap();
            let error = of(command).unwrap_err();
            assert_eq!(error, CleanerError::Passes { method: method.to_owned(), given: given.to_owned() });
            assert!(error.to_string().contains(given) && error.to_string().contains(method));
        }
        for command in ["quick_reset now", "/scripts/blkdiscard.sh -f", "shred 3 4", "secure-discard 1", "fsclean /"] {
            let given = command.rsplit(' ').next().unwrap();
            let error = of(command).unwrap_err();
            assert!(matches!(&error, CleanerError::Argument { given: named, .. } if named == given), "{error}");
        }
        assert_eq!(of(""), Err(CleanerError::Empty));
        assert_eq!(Cleaner::of_command(&[String::new()]), Err(CleanerError::Empty));
    }
}
