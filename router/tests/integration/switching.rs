//! Another policy takes over in the middle of everything.

use std::collections::VecDeque;

use lodestar_router::{
    BlockHash, Decision, Event, Information, InstanceId, InstanceMetrics, InstanceSpec, Load,
    LogEntry, LogReplay, PolicyConfig, Request, RequestId, Router, RouterConfig, Scraped, Time,
    TrainingJob, Usage,
};

const SPEC: InstanceSpec =
    InstanceSpec { kv_capacity_tokens: 40_000, max_model_len_tokens: 32_768 };

/// Traffic in which a dozen requests are always under way, and jobs whose models come late.
struct Driver {
    router: Router,
    step: u64,
    open: VecDeque<RequestId>,
    jobs: VecDeque<TrainingJob>,
}

impl Driver {
    fn new(policy: PolicyConfig, information: Information) -> Self {
        let config = RouterConfig { information, ..RouterConfig::new(policy) };
        let mut router = Router::recording(config, 7);
        for instance in [0, 1, 2].map(InstanceId) {
            router.observe(Time::ZERO, &Event::InstanceJoined { instance, spec: SPEC });
        }
        Self { router, step: 0, open: VecDeque::new(), jobs: VecDeque::new() }
    }

    fn now(&self) -> Time {
        Time::from_nanos(self.step * 30_000_000)
    }

    fn route(&mut self) -> Decision {
        self.step += 1;
        let (id, now) = (RequestId(self.step), self.now());
        let blocks: Vec<_> =
            (0..self.step % 40).map(|at| BlockHash(at * 8 + self.step % 4)).collect();
        let (prompt_tokens, session) = (16 * blocks.len() as u32 + 9, Some(self.step % 5));
        let request = Request { id, prompt_tokens, block_hashes: &blocks, session, priority: 0 };
        self.open.push_back(id);
        self.router.route(now, &request).expect("somebody accepts it")
    }

    /// The oldest request ends, in one of four ways.
    fn end(&mut self) {
        let Some(request) = self.open.pop_front() else { return };
        let usage = Usage { output_tokens: 5, ..Usage::default() };
        let now = self.now();
        if !request.0.is_multiple_of(4) {
            self.router.observe(now, &Event::FirstToken { request });
        }
        match request.0 % 3 {
            0 => self.router.observe(now, &Event::Aborted { request }),
            _ => self.router.observe(now, &Event::Finished { request, usage }),
        }
    }

    fn run(&mut self, requests: usize) {
        for _ in 0..requests {
            self.route();
            if self.open.len() > 12 {
                self.end();
            }
            let now = self.now();
            let metrics = InstanceMetrics { running_requests: 4, ..InstanceMetrics::default() };
            let (instance, scraped) = (InstanceId(1), Scraped { at: now, metrics });
            self.router.observe(now, &Event::MetricsScraped { instance, scraped });
            self.jobs.extend(self.router.training_job(now));
            if self.step.is_multiple_of(40)
                && let Some(job) = self.jobs.pop_front()
            {
                self.router.install(now, job.run());
            }
        }
    }

    fn loads(&self) -> Vec<Load> {
        self.router.fleet().instances().iter().map(|instance| instance.load).collect()
    }
}

fn assert_repeats(log: &[LogEntry]) {
    let [LogEntry::Start(start), rest @ ..] = log else { panic!("it starts with a start") };
    let mut replay = LogReplay::new(start);
    for entry in rest {
        let line = serde_json::to_string(entry).expect("it can be written");
        let entry = serde_json::from_str(&line).expect("it can be read");
        assert!(replay.apply(&entry), "{line}");
    }
}

#[test]
fn whoever_takes_over_from_whomever_the_books_are_empty_at_the_end() {
    for information in [Information::Ideal, Information::Deployed] {
        let all = PolicyConfig::all();
        let mut driver = Driver::new(PolicyConfig::LodestarPaper, information);
        let mut late = 0;
        // Networks train in between, so that a model is under way at some of the switches.
        for policy in all.iter().flat_map(|policy| [policy, &all[25], &all[26]]) {
            late += driver.jobs.len();
            let before = driver.loads();
            driver.router.set_policy(policy);
            assert_eq!(driver.loads(), before, "what is under way is still there");
            driver.run(60);
        }
        while !driver.open.is_empty() {
            driver.end();
        }
        assert_eq!(driver.loads(), [Load::default(); 3]);
        assert!(late > 0, "models came after their policy had gone");
        assert_repeats(&driver.router.take_log());
    }
}

#[test]
fn what_is_known_of_caches_and_loads_outlives_the_policy() {
    let mut driver = Driver::new(PolicyConfig::LeastRequest, Information::Ideal);
    driver.run(9);
    assert!(driver.loads().iter().all(|load| load.requests == 3));
    driver.router.set_policy(&PolicyConfig::LeastTokens);
    let owed: Vec<_> = driver.loads().iter().map(|load| load.context_tokens).collect();
    let chosen = driver.route().instance;
    let least = owed.iter().min().expect("three");
    assert_eq!(owed[chosen.0 as usize], *least, "the new policy sees what the old one sent");

    let mut driver =
        Driver::new(PolicyConfig::from_name("prefix-cache").expect("known"), Information::Ideal);
    driver.run(8);
    driver.router.set_policy(&PolicyConfig::from_name("lodestar").expect("known"));
    assert!(driver.route().candidates.iter().any(|candidate| candidate.prefix_hit_tokens > 0));
}

#[test]
fn a_model_of_the_policy_before_is_not_taken() {
    let paper = || PolicyConfig::LodestarPaper;
    let mut driver = Driver::new(paper(), Information::Ideal);
    let job = loop {
        driver.route();
        if driver.open.len() > 12 {
            driver.end();
        }
        let now = driver.now();
        if let Some(job) = driver.router.training_job(now) {
            break job;
        }
        assert!(driver.step < 100_000, "it trains some day");
    };
    driver.router.set_policy(&paper());
    // A policy that has given no job would panic at a model.
    driver.router.install(driver.now(), job.run());
    let log = driver.router.take_log();
    assert!(!log.iter().rev().take(3).any(|entry| matches!(entry, LogEntry::Install { .. })));
}
