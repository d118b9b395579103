use std::sync::mpsc;

use super::*;

const SOON: Duration = Duration::from_secs(20);

fn jobs() -> Arc<Jobs> {
    Arc::new(Jobs::new(&[]))
}

fn ended(jobs: &Jobs, job: &Job) -> Shown {
    let all = jobs.jobs();
    assert!(!jobs.ended.wait_timeout_while(all, SOON, |_| job.runs()).unwrap().1.timed_out());
    job.show()
}

#[test]
fn one_runs_at_a_time_and_the_next_may_begin_when_it_has_ended() {
    let jobs = jobs();
    let (go, wait) = mpsc::channel::<()>();
    let first = jobs.begin(move |_| wait.recv().map(|()| IndexSummary::default()).map_err(|e| e.to_string()));
    let first = first.unwrap().ok().unwrap();
    let refused = jobs.begin(|_| Ok(IndexSummary::default())).unwrap().err().unwrap();
    assert_eq!(refused.id, first.id);
    assert_eq!(first.show().state, Status::Running);
    go.send(()).unwrap();
    assert_eq!(ended(&jobs, &first).state, Status::Done);
    let second = jobs.begin(|_| Err("no".to_owned())).unwrap().ok().unwrap();
    let shown = ended(&jobs, &second);
    assert_eq!((shown.state, shown.error.as_deref()), (Status::Failed, Some("no")));
    assert_ne!(first.id, second.id);
    assert!(jobs.find(&first.id).is_ok() && jobs.find("x").is_err());
}

#[test]
fn a_panic_is_a_failed_job_and_the_next_one_runs() {
    let jobs = jobs();
    let job = jobs.begin(|_| panic!("on purpose")).unwrap().ok().unwrap();
    let shown = ended(&jobs, &job);
    assert_eq!((shown.state, shown.error.is_some()), (Status::Failed, true));
    let next = jobs.begin(|_| Ok(IndexSummary::default())).unwrap().ok().unwrap();
    assert_eq!(ended(&jobs, &next).state, Status::Done);
}

#[test]
fn stopping_cancels_what_runs_and_waits_for_its_end() {
    let jobs = jobs();
    let work = |job: &Job| {
        while !job.cancel.is_set() {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(IndexSummary { cancelled: true, ..IndexSummary::default() })
    };
    let job = jobs.begin(work).unwrap().ok().unwrap();
    jobs.stop(SOON);
    assert_eq!(job.show().state, Status::Cancelled);
    let (go, wait) = mpsc::channel::<()>();
    let deaf =
        jobs.begin(move |_| wait.recv().map(|()| IndexSummary::default()).map_err(|e| e.to_string())).unwrap().ok().unwrap();
    jobs.stop(Duration::from_millis(20));
    assert_eq!(deaf.show().state, Status::Running, "stopping does not wait for ever");
    go.send(()).unwrap();
    ended(&jobs, &deaf);
}

#[test]
fn progress_is_a_share_and_the_rest_takes_as_long() {
    let jobs = jobs();
    let (go, wait) = mpsc::channel::<()>();
    let job =
        jobs.begin(move |_| wait.recv().map(|()| IndexSummary::default()).map_err(|e| e.to_string())).unwrap().ok().unwrap();
    let shown = job.show();
    assert_eq!((shown.progress, shown.eta_seconds), (0.0, None));
    // What came before the reading does not count.
    std::thread::sleep(Duration::from_millis(200));
    let since = Instant::now();
    *job.progress() = Progress { reading_since: Some(since), done_bytes: 75, total_bytes: 100, ..Progress::default() };
    std::thread::sleep(Duration::from_millis(300));
    let shown = job.show();
    let (eta, took) = (shown.eta_seconds.unwrap(), since.elapsed().as_secs_f64());
    assert_eq!(shown.progress, 0.75);
    assert!(eta >= 0.1 - 0.05 && eta <= took / 3.0 + 0.05, "{shown:?} after {took}");
    go.send(()).unwrap();
    let shown = ended(&jobs, &job);
    assert_eq!((shown.progress, shown.eta_seconds), (1.0, None));
}

#[test]
fn folders_of_the_same_name_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let paths = ["a/Videos", "b/Videos", "Holiday"].map(|name| dir.path().join(name));
    paths.iter().for_each(|path| std::fs::create_dir_all(path).unwrap());
    let jobs = Jobs::new(&[&paths[..], &[PathBuf::from("/")]].concat());
    assert_eq!(jobs.folders().collect::<Vec<_>>(), ["Videos", "Videos (2)", "Holiday", "library"]);
}
