//! What a cleaning does to which bytes, pass by pass, with one linear position over all of them. Does nothing itself.

use crate::model::cleaning::{CleanJob, Cleaning};
use crate::model::discovery::Cleaner;
use crate::model::ranges::{Chunk, Ranges};

/// What is done to every range of the plan, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Made zero, by the fastest way that guarantees it.
    Zero,
    /// Discarded and read back; made zero from where that does not read zero.
    DiscardOrZero,
    /// The device is told that the blocks are free, and is believed.
    Discard,
    /// The device is told to erase the blocks, and is believed.
    SecureDiscard,
    Random,
}

/// The passes of one cleaning over the ranges that it covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Course {
    plan: Ranges,
    passes: Vec<Pass>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CourseError {
    #[error("nothing says how it is cleaned: its class has no cleaner")]
    NoCleaner,
    #[error("what is offered as it was found is not cleaned")]
    AsFound,
    #[error("fsclean empties directories and cannot clean a device; give its class a block cleaner")]
    Directory,
}

/// How a job is carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task<'a> {
    Course(Course),
    /// By a program of the image.
    Program(&'a [String]),
}

impl Task<'_> {
    /// What this job is about, on a device of its size.
    pub fn of(job: &CleanJob) -> Result<Task<'_>, CourseError> {
        let size = job.evidence.size;
        let course = |plan: Cleaning, passes: Vec<Pass>| Ok(Task::Course(Course::new(Ranges::of(plan, size), passes)));
        match job.cleaning {
            Cleaning::Quick => course(Cleaning::Quick, vec![Pass::Zero]),
            Cleaning::Zero => course(Cleaning::Zero, vec![Pass::Zero]),
            Cleaning::Discard => course(Cleaning::Discard, vec![Pass::DiscardOrZero]),
            Cleaning::AsFound => Err(CourseError::AsFound),
            Cleaning::ByClass => match job.cleaner.as_ref().ok_or(CourseError::NoCleaner)? {
                Cleaner::Empty => Err(CourseError::Directory),
                Cleaner::Command(argv) => Ok(Task::Program(argv)),
                Cleaner::QuickReset => course(Cleaning::Quick, vec![Pass::Zero]),
                // No pass at all would leave everything as it is and count as done.
                Cleaner::Zero { passes } => course(Cleaning::Zero, vec![Pass::Zero; (*passes).max(1) as usize]),
                Cleaner::Shred { passes } => {
                    let mut all = vec![Pass::Random; *passes as usize];
                    all.push(Pass::Zero);
                    course(Cleaning::Zero, all)
                }
                Cleaner::Discard { verified: true } => course(Cleaning::Discard, vec![Pass::DiscardOrZero]),
                Cleaner::Discard { verified: false } => course(Cleaning::Discard, vec![Pass::Discard]),
                Cleaner::SecureDiscard => course(Cleaning::Discard, vec![Pass::SecureDiscard]),
            },
        }
    }
}

impl Course {
    pub fn new(plan: Ranges, passes: Vec<Pass>) -> Course {
        Course { plan, passes }
    }

    pub fn plan(&self) -> &Ranges {
        &self.plan
    }

    /// Bytes over all passes.
    pub fn total(&self) -> u64 {
        self.plan.total().saturating_mul(self.passes.len() as u64)
    }

    /// What is told of it when it is done, where `way` is the last of the ways that were used.
    pub fn method(&self, way: &'static str) -> &'static str {
        if self.passes.contains(&Pass::Random) {
            "shred"
        } else if self.passes.len() > 1 {
            "passes"
        } else {
            way
        }
    }

    /// Whether every byte must read zero in the end.
    pub fn ends_in_zeros(&self) -> bool {
        matches!(self.passes.last(), Some(Pass::Zero | Pass::DiscardOrZero))
    }

    /// Where to take up a cleaning that has done so many bytes ([`Ranges::resume_at`], pass by pass).
    pub fn resume_at(&self, done: u64) -> u64 {
        if done > self.total() {
            return 0;
        }
        let before = done.checked_rem(self.plan.total()).map_or(0, |into| done - into);
        before + self.plan.resume_at(done - before)
    }

    /// The pass that the position lies in, and the chunk that starts there, of `most` bytes at the most; `None` at the
    /// end.
    pub fn chunk_at(&self, position: u64, most: u64) -> Option<(Pass, Chunk)> {
        let pass = position.checked_div(self.plan.total())?;
        let kind = self.passes.get(usize::try_from(pass).ok()?)?;
        Some((*kind, self.plan.piece_at(position % self.plan.total(), most)?))
    }

    /// Whether a pass ends here.
    pub fn ends_pass(&self, position: u64) -> bool {
        position.checked_rem(self.plan.total()) == Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::cleaning::{JobId, Permission};
    use crate::model::device::{Evidence, Identity, Place};
    use crate::model::ranges::{CHUNK, GRAIN};

    const SIZE: u64 = (1 << 30) + 512;

    fn job(cleaning: Cleaning, cleaner: Option<Cleaner>) -> CleanJob {
        let place = Place::Block { major: 7, minor: 0 };
        let evidence =
            Evidence { boot_id: String::new(), place, diskseq: None, size: SIZE, identity: Identity::default() };
        let (id, path, permission) = (JobId(1), "/dev/x".into(), Permission::Release);
        CleanJob { id, path, evidence, permission, cleaning, cleaner, resume_at: 0 }
    }

    fn course(cleaner: Cleaner) -> Course {
        match Task::of(&job(Cleaning::ByClass, Some(cleaner))) {
            Ok(Task::Course(course)) => course,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_method_covers_what_it_must_in_as_many_passes() {
        let passes = |cleaner| {
            let course = course(cleaner);
            (course.plan.total(), course.passes.clone(), course.ends_in_zeros())
        };
        let quick = Ranges::of(Cleaning::Quick, SIZE).total();
        assert_eq!(passes(Cleaner::QuickReset), (quick, vec![Pass::Zero], true));
        assert_eq!(passes(Cleaner::Zero { passes: 2 }), (SIZE, vec![Pass::Zero; 2], true));
        let shred = vec![Pass::Random, Pass::Random, Pass::Zero];
        assert_eq!(passes(Cleaner::Shred { passes: 2 }), (SIZE, shred, true));
        assert_eq!(passes(Cleaner::Discard { verified: true }), (SIZE, vec![Pass::DiscardOrZero], true));
        assert_eq!(passes(Cleaner::Discard { verified: false }), (SIZE, vec![Pass::Discard], false));
        assert_eq!(passes(Cleaner::SecureDiscard), (SIZE, vec![Pass::SecureDiscard], false));
    }

    #[test]
    fn what_says_nothing_about_bytes_is_no_course() {
        let task = |cleaning, cleaner| Task::of(&job(cleaning, cleaner)).map(|_| ());
        assert_eq!(task(Cleaning::ByClass, None), Err(CourseError::NoCleaner));
        assert_eq!(task(Cleaning::ByClass, Some(Cleaner::Empty)), Err(CourseError::Directory));
        assert_eq!(task(Cleaning::AsFound, None), Err(CourseError::AsFound));
        let argv = vec!["x".to_owned()];
        let by_program = job(Cleaning::ByClass, Some(Cleaner::Command(argv.clone())));
        assert_eq!(Task::of(&by_program), Ok(Task::Program(&argv)));
    }

    #[test]
    fn the_position_runs_through_all_passes_without_a_gap() {
        let course = course(Cleaner::Shred { passes: 2 });
        let (mut position, mut ends, mut order) = (0, 0, Vec::new());
        while let Some((pass, chunk)) = course.chunk_at(position, CHUNK) {
            assert_eq!(chunk.offset, position % SIZE, "the plan is the whole device");
            position += chunk.len;
            ends += u32::from(course.ends_pass(position));
            if order.last() != Some(&pass) {
                order.push(pass);
            }
        }
        assert_eq!((position, ends, order), (3 * SIZE, 3, vec![Pass::Random, Pass::Zero]));
        assert_eq!(course.total(), 3 * SIZE);
    }

    #[test]
    fn it_is_taken_up_in_the_pass_where_it_was_and_never_behind_it() {
        let course = course(Cleaner::Shred { passes: 2 });
        for done in [0, 1, GRAIN, SIZE - 1, SIZE, SIZE + 1, SIZE + GRAIN + 7, 2 * SIZE, 3 * SIZE - 1, 3 * SIZE] {
            let resumed = course.resume_at(done);
            assert!(resumed <= done && done - resumed < GRAIN, "{done} {resumed}");
            if let Some((_, chunk)) = course.chunk_at(resumed, CHUNK) {
                assert!(chunk.offset.is_multiple_of(GRAIN), "{done}");
            }
        }
        assert_eq!(course.resume_at(3 * SIZE + 1), 0, "a number of another course");
    }

    #[test]
    fn a_device_without_bytes_has_nothing_to_do() {
        let course = Course::new(Ranges::of(Cleaning::Zero, 0), vec![Pass::Random, Pass::Zero]);
        assert_eq!((course.total(), course.chunk_at(0, CHUNK), course.resume_at(0)), (0, None, 0));
    }
}
