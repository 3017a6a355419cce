//! The words of discovery directories: what an entry of one is, and how a class has its volumes cleaned.

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

impl Cleaner {
    /// What a `blockCleanerCommand` means: the original's scripts by their paths or names, what this program has beside
    /// them by its name, and else a program to start. The error is one clause without the key.
    pub fn of_command(argv: &[String]) -> Result<Cleaner, String> {
        /// Of the original's shred.sh and dd_zero.sh.
        const SHRED_PASSES: u32 = 3;
        const ZERO_PASSES: u32 = 1;
        let Some((program, arguments)) = argv.split_first() else {
            return Err("is empty; leave it out for quick_reset, or name a method or a program".to_owned());
        };
        let script = program.strip_prefix("/scripts/").and_then(|file| file.strip_suffix(".sh"));
        let passes = |default: u32| match arguments {
            [] => Ok(default),
            [count] => count
                .parse()
                .map_err(|_| format!("\"{count}\" is no number of passes: {program} takes one, or nothing")),
            _ => Err(format!("{program} takes a number of passes, or nothing")),
        };
        let plain = |cleaner: Cleaner| match arguments {
            [] => Ok(cleaner),
            _ => Err(format!("{program} takes no argument")),
        };
        match (script, program.as_str()) {
            (_, "") => Err("names no program".to_owned()),
            (Some("quick_reset"), _) | (None, "quick_reset") => plain(Cleaner::QuickReset),
            (Some("shred"), _) | (None, "shred") => Ok(Cleaner::Shred { passes: passes(SHRED_PASSES)? }),
            (Some("dd_zero"), _) | (None, "dd_zero" | "zero") => match passes(ZERO_PASSES)? {
                0 => Err(format!("{program} 0 cleans nothing; give 1 or more")),
                passes => Ok(Cleaner::Zero { passes }),
            },
            (Some("blkdiscard"), _) | (None, "blkdiscard") => plain(Cleaner::Discard { verified: false }),
            (Some("fsclean"), _) | (None, "fsclean") => plain(Cleaner::Empty),
            (None, "discard") => plain(Cleaner::Discard { verified: true }),
            (None, "secure-discard") => plain(Cleaner::SecureDiscard),
            _ => Ok(Cleaner::Command(argv.to_vec())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(words: &[&str]) -> Result<Cleaner, String> {
        Cleaner::of_command(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_originals_scripts_are_known_by_path_and_by_name() {
        for (script, name, cleaner) in [
            ("/scripts/quick_reset.sh", "quick_reset", Cleaner::QuickReset),
            ("/scripts/shred.sh", "shred", Cleaner::Shred { passes: 3 }),
            ("/scripts/dd_zero.sh", "dd_zero", Cleaner::Zero { passes: 1 }),
            ("/scripts/blkdiscard.sh", "blkdiscard", Cleaner::Discard { verified: false }),
            ("/scripts/fsclean.sh", "fsclean", Cleaner::Empty),
        ] {
            assert_eq!(of(&[script]), Ok(cleaner.clone()));
            assert_eq!(of(&[name]), Ok(cleaner));
        }
        assert_eq!(of(&["zero"]), Ok(Cleaner::Zero { passes: 1 }));
        assert_eq!(of(&["discard"]), Ok(Cleaner::Discard { verified: true }));
        assert_eq!(of(&["secure-discard"]), Ok(Cleaner::SecureDiscard));
    }

    #[test]
    fn passes_are_counted_where_there_are_some() {
        assert_eq!(of(&["/scripts/shred.sh", "2"]), Ok(Cleaner::Shred { passes: 2 }));
        assert_eq!(of(&["dd_zero", "2"]), Ok(Cleaner::Zero { passes: 2 }));
        for wrong in [&["shred", "x"][..], &["shred", "-1"], &["zero", "0"], &["shred", "1", "2"], &["blkdiscard", "1"]]
        {
            assert!(of(wrong).is_err(), "{wrong:?}");
        }
        assert!(of(&[]).is_err() && of(&[""]).is_err());
    }

    #[test]
    fn anything_else_is_a_program() {
        for words in [&["/scripts/my.sh", "2"][..], &["/bin/zero"], &["/scripts/zero.sh"], &["shred.sh"]] {
            assert_eq!(of(words), Ok(Cleaner::Command(words.iter().map(|word| (*word).to_owned()).collect())));
        }
    }
}
