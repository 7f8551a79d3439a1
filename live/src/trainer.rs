//! Where models are trained: on a thread of this process, or in a process of its own, which leaves the machine to whoever
//! serves and whose end costs one model. Serving waits for neither.
//!
//! Not candle on a task: it would occupy a thread that passes bytes on. A job goes to the process as a line of JSON and
//! comes back as one, since both are values that can be written down, to the last bit. The process is this program
//! again, so both ends are always of one version.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use lodestar_router::{Model, TrainingJob};
use serde::Deserialize;
use tokio::sync::{Mutex, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::warn;

/// How much less urgent than serving training is, as of nice(1).
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;
/// A process that has not answered for so long hangs: jobs take milliseconds to seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// `[router] training`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Training {
    /// On a thread of this process.
    #[default]
    Thread,
    /// By `train-worker` of the same program.
    Process,
}

/// Trains models.
#[derive(Debug)]
pub(crate) enum Trainer {
    Thread,
    Process(WorkerProcess),
}

/// A process to train in: the one that runs, or the next one.
#[derive(Debug)]
pub(crate) struct WorkerProcess {
    program: Vec<OsString>,
    patience: Duration,
    /// There is one after the first job, unless it was lost.
    running: Mutex<Option<(Killed, Pipes)>>,
}

/// A process that ends when this is dropped.
#[derive(Debug)]
struct Killed(Child);

#[derive(Debug)]
struct Pipes {
    jobs: ChildStdin,
    models: BufReader<ChildStdout>,
}

impl Trainer {
    pub(crate) fn new(training: Training) -> Self {
        match training {
            Training::Thread => Self::Thread,
            Training::Process => {
                Self::Process(WorkerProcess::new([program(), "train-worker".into()], PATIENCE))
            }
        }
    }

    /// Does the work, which takes a while; `None` if it was lost. The next job has a new process then.
    pub(crate) async fn train(&self, job: TrainingJob) -> Option<Model> {
        let trained = match self {
            Self::Thread => on_a_thread(job).await,
            Self::Process(process) => process.train(job).await,
        };
        trained.inspect_err(|error| warn!("a model was lost while it was trained: {error}")).ok()
    }
}

/// Not on one of the runtime's threads for work that blocks: it is less urgent than what they do.
async fn on_a_thread(job: TrainingJob) -> io::Result<Model> {
    let (sender, model) = oneshot::channel();
    std::thread::Builder::new().name("training".to_owned()).spawn(move || {
        be_less_urgent();
        // Who has stopped waiting wants no model.
        let _ = sender.send(job.run());
    })?;
    model.await.map_err(|_| io::Error::other("its thread panicked"))
}

/// Leaves the machine to whoever serves: on Linux each thread has a niceness of its own. Where it is not allowed, it trains all the same.
fn be_less_urgent() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::nice(NICENESS);
}

/// This program, also when its file has been replaced since the start.
fn program() -> OsString {
    if cfg!(target_os = "linux") {
        return "/proc/self/exe".into();
    }
    std::env::current_exe().map_or_else(|_| "lodestar".into(), Into::into)
}

impl WorkerProcess {
    fn new(program: impl Into<Vec<OsString>>, patience: Duration) -> Self {
        Self { program: program.into(), patience, running: Mutex::default() }
    }

    /// The process is kept only after its answer. However else this ends, it is killed, which ends the exchange too.
    async fn train(&self, job: TrainingJob) -> io::Result<Model> {
        let mut running = self.running.lock().await;
        let (process, mut pipes) = running.take().map_or_else(|| self.start(), Ok)?;
        let exchange = spawn_blocking(move || pipes.exchange(&job).map(|model| (pipes, model)));
        let answer = timeout(self.patience, exchange).await;
        let answer = answer.map_err(|_| io::Error::other("its process does not answer"))?;
        let (pipes, model) = answer.map_err(io::Error::other)??;
        *running = Some((process, pipes));
        Ok(model)
    }

    fn start(&self) -> io::Result<(Killed, Pipes)> {
        let mut child = Command::new(&self.program[0])
            .args(&self.program[1..])
            // An interrupt at the terminal is the server's, which lets requests end.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let jobs = child.stdin.take().expect("it is a pipe");
        let models = BufReader::new(child.stdout.take().expect("it is a pipe"));
        Ok((Killed(child), Pipes { jobs, models }))
    }
}

impl Pipes {
    fn exchange(&mut self, job: &TrainingJob) -> io::Result<Model> {
        let mut line = serde_json::to_string(job)?;
        line.push('\n');
        self.jobs.write_all(line.as_bytes())?;
        line.clear();
        if self.models.read_line(&mut line)? == 0 {
            return Err(io::Error::other("its process has ended"));
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads jobs, one a line of JSON, and writes a model for each, until the input ends.
///
/// # Errors
/// When a line is not a job, or input or output fails.
pub fn train_worker(jobs: impl BufRead, mut models: impl Write) -> io::Result<()> {
    // Threads that it starts are so too.
    be_less_urgent();
    for (line, job) in (1..).zip(jobs.lines()) {
        let job: TrainingJob = serde_json::from_str(&job?).map_err(|error| {
            io::Error::other(format!("line {line} of the input is not a training job: {error}"))
        })?;
        serde_json::to_writer(&mut models, &job.run())?;
        models.write_all(b"\n")?;
        models.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use lodestar_router::{
        Event, InstanceId, InstanceSpec, PolicyConfig, Request, RequestId, Router, RouterConfig,
        Time,
    };

    use super::*;

    fn job() -> TrainingJob {
        let policy = PolicyConfig::from_name("lodestar").unwrap();
        let mut router = Router::new(RouterConfig::new(policy), 3);
        let spec = InstanceSpec { kv_capacity_tokens: 400_000, max_model_len_tokens: 32_768 };
        router.observe(Time::ZERO, &Event::InstanceJoined { instance: InstanceId(0), spec });
        let at = |secs: u64| Time::from_nanos(secs * 1_000_000_000);
        let id = RequestId(1);
        let request =
            Request { id, prompt_tokens: 9, block_hashes: &[], session: None, priority: 0 };
        router.route(at(1), &request).unwrap();
        router.observe(at(2), &Event::FirstToken { request: id });
        router.training_job(at(3)).unwrap()
    }

    /// Starts `script`, which may say what it likes in place of the next model; the file `model` has the right one.
    async fn train_twice(script: &str, patience: Duration) -> [bool; 2] {
        let folder = tempfile::tempdir().unwrap();
        let model = job().run();
        std::fs::write(folder.path().join("model"), serde_json::to_string(&model).unwrap() + "\n")
            .unwrap();
        let script = format!("cd {}; {script}", folder.path().display());
        let program = ["sh", "-c", &script].map(OsString::from);
        let trainer = Trainer::Process(WorkerProcess::new(program, patience));
        let mut came = [false; 2];
        for came in &mut came {
            let trained = trainer.train(job()).await;
            assert!(trained.is_none() || trained.as_ref() == Some(&model));
            *came = trained.is_some();
        }
        came
    }

    #[tokio::test]
    async fn a_process_that_is_lost_costs_one_model() {
        let once = "test -e seen && cat model && exec cat >/dev/null; touch seen;";
        for (way_to_fail, patience) in [
            ("exit 1", PATIENCE),
            ("read job; echo {}", PATIENCE),
            ("read job; kill -9 $$", PATIENCE),
            ("exec sleep 1000", Duration::from_millis(50)),
        ] {
            // With patience the second one is in time on any machine.
            let came = train_twice(&format!("{once} {way_to_fail}"), patience).await;
            assert!(!came[0], "{way_to_fail}");
            assert!(came[1] || patience < PATIENCE, "{way_to_fail}");
        }
    }

    #[tokio::test]
    async fn a_process_stays() {
        let script = "mkdir once || exit 1; while read job; do cat model; done";
        assert_eq!(train_twice(script, PATIENCE).await, [true; 2]);
    }

    #[tokio::test]
    async fn without_the_program_there_is_no_model() {
        let program = [OsString::from("/absent")];
        let trainer = Trainer::Process(WorkerProcess::new(program, PATIENCE));
        assert_eq!(trainer.train(job()).await, None);
    }
}
