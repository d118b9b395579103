use std::sync::mpsc;
use std::time::Instant;

use super::job::{JobState, JobStatus};
use super::*;

/// Longest wait for a job to end.
const SOON: Duration = Duration::from_secs(20);

fn jobs() -> Arc<Jobs> {
    Arc::new(Jobs::new(&[]))
}

fn ended(jobs: &Jobs, job: &Job) -> JobStatus {
    let mut all = jobs.jobs.lock();
    assert!(!jobs.ended.wait_while_for(&mut all, |_| job.is_running(), SOON).timed_out());
    job.status()
}

#[test]
fn runs_one_job_at_a_time() {
    let jobs = jobs();
    let (go, wait) = mpsc::channel::<()>();
    let first = jobs.start(move |_| wait.recv().map(|()| IndexSummary::default()).map_err(|e| e.to_string()));
    let first = first.unwrap().ok().unwrap();
    let refused = jobs.start(|_| Ok(IndexSummary::default())).unwrap().err().unwrap();
    assert_eq!(refused.id, first.id);
    assert_eq!(first.status().record.state, JobState::Running);
    go.send(()).unwrap();
    assert_eq!(ended(&jobs, &first).record.state, JobState::Done);
    let second = jobs.start(|_| Err("no".to_owned())).unwrap().ok().unwrap();
    let status = ended(&jobs, &second);
    assert_eq!((status.record.state, status.record.error.as_deref()), (JobState::Failed, Some("no")));
    assert_ne!(first.id, second.id);
    assert!(jobs.find(&first.id).is_ok() && jobs.find("x").is_err());
}

#[test]
fn a_panic_fails_the_job_and_the_next_one_runs() {
    let jobs = jobs();
    let job = jobs.start(|_| panic!("on purpose")).unwrap().ok().unwrap();
    let status = ended(&jobs, &job);
    assert_eq!((status.record.state, status.record.error.is_some()), (JobState::Failed, true));
    let next = jobs.start(|_| Ok(IndexSummary::default())).unwrap().ok().unwrap();
    assert_eq!(ended(&jobs, &next).record.state, JobState::Done);
}

#[test]
fn stopping_cancels_the_job_and_waits_for_its_end() {
    let jobs = jobs();
    let work = |job: &Job| {
        while !job.cancel.is_set() {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(IndexSummary { cancelled: true, ..IndexSummary::default() })
    };
    let job = jobs.start(work).unwrap().ok().unwrap();
    jobs.stop(SOON);
    assert_eq!(job.status().record.state, JobState::Cancelled);
    let (go, wait) = mpsc::channel::<()>();
    let deaf = jobs
        .start(move |_| wait.recv().map(|()| IndexSummary::default()).map_err(|e| e.to_string()))
        .unwrap()
        .ok()
        .unwrap();
    jobs.stop(Duration::from_millis(20));
    assert_eq!(deaf.status().record.state, JobState::Running, "stopping waits until the timeout");
    go.send(()).unwrap();
    ended(&jobs, &deaf);
}

#[test]
fn estimates_the_time_left_from_the_speed_of_reading() {
    let jobs = jobs();
    let (go, wait) = mpsc::channel::<()>();
    let job = jobs
        .start(move |_| wait.recv().map(|()| IndexSummary::default()).map_err(|e| e.to_string()))
        .unwrap()
        .ok()
        .unwrap();
    let status = job.status();
    assert_eq!((status.progress, status.eta_seconds), (0.0, None));
    // The time before the reading does not count.
    std::thread::sleep(Duration::from_millis(200));
    let since = Instant::now();
    let mut progress = job.progress();
    progress.reading_since = Some(since);
    (progress.record.done_bytes, progress.record.total_bytes) = (75, 100);
    drop(progress);
    std::thread::sleep(Duration::from_millis(300));
    let status = job.status();
    let (eta, took) = (status.eta_seconds.unwrap(), since.elapsed().as_secs_f64());
    assert_eq!(status.progress, 0.75);
    assert!(eta >= 0.1 - 0.05 && eta <= took / 3.0 + 0.05, "{status:?} after {took}");
    go.send(()).unwrap();
    let status = ended(&jobs, &job);
    assert_eq!((status.progress, status.eta_seconds), (1.0, None));
}

#[test]
fn folders_of_the_same_name_get_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["a/Videos", "b/Videos", "Holiday"].map(|name| dir.path().join(name));
    paths.iter().for_each(|path| std::fs::create_dir_all(path).unwrap());
    let jobs = Jobs::new(&[&paths[..], &[PathBuf::from("/")]].concat());
    assert_eq!(jobs.folders().collect::<Vec<_>>(), ["Videos", "Videos (2)", "Holiday", "library"]);
}
