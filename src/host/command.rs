//! Starts programs, and is the only place that does: each in a process group of its own, its output cut into lines,
//! gone before the call returns. Refuses to use a shell, and to leave anything of a program behind.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, getpid, getppid};
use std::ffi::OsStr;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What is kept of one line: programs that draw progress bars write kilobytes without a line's end.
const LINE_MAX: usize = 400;

/// How much of an output is read at a time, and how often before the clock is looked at: a pipe holds 64 KiB.
const PIECE: usize = 4096;
const PIECES: usize = 16;

/// How often it is looked whether the program is to be stopped.
const STEP: Duration = Duration::from_millis(100);

/// What a program is given to end by itself after SIGTERM. A cancelled cleaning ends within 2 s, and so does the agent.
const GRACE: Duration = Duration::from_millis(500);

#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("there is no program to start")]
    Empty,
    #[error("{program} (or the interpreter that it names) is not in this image")]
    Missing { program: String },
    #[error("{program} cannot be started")]
    Start { program: String, source: io::Error },
    #[error("whether {program} has ended cannot be told")]
    Wait { program: String, source: io::Error },
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    /// It was told to, by [`Wish::Stop`].
    Stopped,
}

/// Which of its two outputs a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Out,
    Err,
}

/// What the caller wants of a program that runs; asked for several times a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    GoOn,
    Stop,
}

/// Runs a program with this process's environment and `env`, and without input, to its end. Returns when all of its
/// process group is gone; what it had started in the background is killed with it.
pub fn run(
    argv: &[String],
    env: &[(&str, &OsStr)],
    line: &mut dyn FnMut(Stream, &str),
    wish: &mut dyn FnMut() -> Wish,
) -> Result<Exit, CommandError> {
    let (program, args) = argv.split_first().ok_or(CommandError::Empty)?;
    let mut command = Command::new(program);
    command.args(args).envs(env.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let parent = getpid();
    // SAFETY: between fork and exec; the closure makes three system calls and allocates nothing.
    unsafe { command.pre_exec(move || prepare(parent)) };
    let child = command.spawn().map_err(|source| match source.kind() {
        ErrorKind::NotFound => CommandError::Missing { program: program.clone() },
        _ => CommandError::Start { program: program.clone(), source },
    })?;
    Running::new(child).finish(line, wish).map_err(|source| CommandError::Wait { program: program.clone(), source })
}

/// In the new process. The agent blocks the signals that it waits for, which would be inherited; and a program must
/// not go on writing to a device when the agent that answers for it was killed.
fn prepare(parent: Pid) -> io::Result<()> {
    SigSet::empty().thread_set_mask()?;
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // It may have died just before.
    if getppid() == parent { Ok(()) } else { Err(Errno::ESRCH.into()) }
}

struct Running {
    child: Child,
    group: Pid,
    out: Output<std::process::ChildStdout>,
    err: Output<std::process::ChildStderr>,
}

impl Running {
    fn new(mut child: Child) -> Running {
        let group = Pid::from_raw(child.id() as i32);
        let (out, err) = (Output::new(child.stdout.take()), Output::new(child.stderr.take()));
        Running { child, group, out, err }
    }

    fn finish(mut self, line: &mut dyn FnMut(Stream, &str), wish: &mut dyn FnMut() -> Wish) -> io::Result<Exit> {
        let mut told: Option<Instant> = None;
        while !self.has_ended()? {
            // Once told, it gives no sign of life any more: a program that hangs in the kernel is to look like that.
            match told {
                None if wish() == Wish::Stop => {
                    self.signal(Signal::SIGTERM);
                    told = Some(Instant::now());
                }
                Some(at) if at.elapsed() >= GRACE => self.signal(Signal::SIGKILL),
                _ => {}
            }
            self.wait_for_output()?;
            self.read(line);
        }
        // The leader is not reaped yet, so that its number cannot mean another group.
        self.signal(Signal::SIGKILL);
        self.read(line);
        let status = self.child.wait()?;
        self.out.rest(Stream::Out, line);
        self.err.rest(Stream::Err, line);
        Ok(match (told, status.code()) {
            (Some(_), _) => Exit::Stopped,
            (None, Some(code)) => Exit::Code(code),
            (None, None) => Exit::Signal(status.signal().unwrap_or_default()),
        })
    }

    fn has_ended(&self) -> io::Result<bool> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(self.group), flags) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => Ok(false),
            Ok(_) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }

    fn signal(&self, signal: Signal) {
        // A group without processes is what is wanted.
        let _ = killpg(self.group, signal);
    }

    fn wait_for_output(&self) -> io::Result<()> {
        let mut wanted: Vec<PollFd<'_>> = Vec::with_capacity(2);
        wanted.extend(self.out.pipe.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        wanted.extend(self.err.pipe.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        match poll(&mut wanted, PollTimeout::from(STEP.as_millis() as u16)) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn read(&mut self, line: &mut dyn FnMut(Stream, &str)) {
        self.out.read(Stream::Out, line);
        self.err.read(Stream::Err, line);
    }
}

/// One pipe, until its other end is closed, and the line that is not complete yet.
struct Output<P> {
    pipe: Option<P>,
    line: Vec<u8>,
}

impl<P: Read + AsFd> Output<P> {
    fn new(pipe: Option<P>) -> Output<P> {
        // One that cannot be made so is not read: the program would be waited for without an end.
        let pipe = pipe.filter(|pipe| fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).is_ok());
        Output { pipe, line: Vec::new() }
    }

    /// Some of what is there now: whoever writes without a pause does not keep us from looking at the clock.
    fn read(&mut self, stream: Stream, line: &mut dyn FnMut(Stream, &str)) {
        let mut bytes = [0; PIECE];
        for _ in 0..PIECES {
            let Some(pipe) = &mut self.pipe else { return };
            match pipe.read(&mut bytes) {
                Ok(0) => self.pipe = None,
                Ok(n) => self.take(&bytes[..n], stream, line),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.pipe = None,
            }
        }
    }

    fn take(&mut self, bytes: &[u8], stream: Stream, line: &mut dyn FnMut(Stream, &str)) {
        for byte in bytes {
            match byte {
                b'\n' | b'\r' => self.rest(stream, line),
                _ if self.line.len() < LINE_MAX => self.line.push(*byte),
                _ => {}
            }
        }
    }

    fn rest(&mut self, stream: Stream, line: &mut dyn FnMut(Stream, &str)) {
        let text = String::from_utf8_lossy(&self.line);
        let text = text.trim();
        if !text.is_empty() {
            line(stream, text);
        }
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Vec<String> {
        ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
    }

    /// Runs it to its end, or for so long.
    fn run_for(script: &str, most: Duration) -> (Exit, Vec<(Stream, String)>) {
        let (mut lines, begun) = (Vec::new(), Instant::now());
        let exit = run(
            &sh(script),
            &[("GIVEN", OsStr::new("to it"))],
            &mut |stream, line| lines.push((stream, line.to_owned())),
            &mut || if begun.elapsed() > most { Wish::Stop } else { Wish::GoOn },
        );
        (exit.unwrap(), lines)
    }

    const LONG: Duration = Duration::from_secs(60);

    /// Whether a process of this number is left.
    fn is_there(pid: &str) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // A zombie whose parent has not looked yet is gone.
        !status.is_empty() && !status.contains(") Z ")
    }

    #[test]
    fn its_lines_its_environment_and_its_code_come_back() {
        let (exit, lines) = run_for("echo $GIVEN; printf 'a\\rb\\n\\nlast' >&2; exit 7", LONG);
        assert_eq!(exit, Exit::Code(7));
        let of = |wanted| lines.iter().filter(|(s, _)| *s == wanted).map(|(_, l)| l.as_str()).collect::<Vec<_>>();
        assert_eq!(of(Stream::Out), ["to it"]);
        assert_eq!(of(Stream::Err), ["a", "b", "last"]);
        assert_eq!(run_for("kill -9 $$", LONG).0, Exit::Signal(9));
        assert_eq!(run_for("cat", LONG).0, Exit::Code(0), "there is no input to wait for");
    }

    #[test]
    fn a_line_without_an_end_is_cut_and_much_output_holds_nothing_up() {
        let (exit, lines) = run_for("head -c 3000000 /dev/zero | tr '\\0' x; echo; echo end", LONG);
        assert_eq!(exit, Exit::Code(0));
        assert_eq!(lines, [(Stream::Out, "x".repeat(LINE_MAX)), (Stream::Out, "end".to_owned())]);
        let begun = Instant::now();
        assert_eq!(run_for("yes", Duration::from_millis(300)).0, Exit::Stopped);
        assert!(begun.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn one_that_is_told_to_stop_is_gone_with_all_it_started_whether_it_listens_or_not() {
        for script in ["sleep 100 & echo $! $$; wait", "trap '' TERM; sleep 100 & echo $! $$; while :; do wait; done"] {
            let begun = Instant::now();
            let (exit, lines) = run_for(script, Duration::from_millis(300));
            assert_eq!(exit, Exit::Stopped);
            assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
            let pids: Vec<&str> = lines[0].1.split(' ').collect();
            assert_eq!(pids.len(), 2);
            std::thread::sleep(Duration::from_millis(100));
            assert!(!pids.iter().any(|pid| is_there(pid)), "{script}");
        }
    }

    #[test]
    fn what_it_left_in_the_background_ends_with_it() {
        let begun = Instant::now();
        let (exit, lines) = run_for("sleep 100 & echo $!", LONG);
        assert_eq!(exit, Exit::Code(0));
        assert!(begun.elapsed() < Duration::from_secs(10), "the pipe that it holds open is not waited for");
        std::thread::sleep(Duration::from_millis(100));
        assert!(!is_there(&lines[0].1));
    }

    #[test]
    fn the_signals_that_we_block_are_not_blocked_in_it() {
        let mut blocked = SigSet::empty();
        blocked.add(Signal::SIGTERM);
        let before = blocked.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK).unwrap();
        let (exit, _) = run_for("kill -TERM $$; sleep 1", LONG);
        before.thread_set_mask().unwrap();
        assert_eq!(exit, Exit::Signal(15));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let missing = vec!["/scripts/none.sh".to_owned()];
        let error = run(&missing, &[], &mut |_, _| {}, &mut || Wish::GoOn).unwrap_err();
        assert!(error.to_string().contains("/scripts/none.sh"), "{error}");
        assert!(matches!(run(&[], &[], &mut |_, _| {}, &mut || Wish::GoOn), Err(CommandError::Empty)));
    }
}
