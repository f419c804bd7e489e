//! Kernels: what the built-in ones do, and how the runner treats those that fail, panic or take too
//! long.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::exec_support::{Job, Spec, bench, bench_with, once, pool, seat, site};
use phalanx::exec::{ArgError, Args, ExecContext, Kernels, Prepared, TaskStop};
use phalanx::model::{Outcome, State, TaskId};

const FAILED: Outcome = Outcome { state: State::Failed, exit: 1, cached: false };

/// The built-in kernels, and some that misbehave.
fn kernels() -> Kernels {
    fn panics(_: &toml::Table) -> Result<Prepared, ArgError> {
        Ok(Arc::new(|_| panic!("out of {}", "cheese")))
    }
    fn fails(_: &toml::Table) -> Result<Prepared, ArgError> {
        Ok(Arc::new(|context| {
            context.eprint("about to\n");
            Err("no luck".to_owned())
        }))
    }
    fn describe(args: &toml::Table) -> Result<Prepared, ArgError> {
        let greeting: String = Args::new(args, &["greeting"])?.need("greeting")?;
        Ok(Arc::new(move |c| {
            c.print(&format!("{greeting} {} {:?} {} {} {}", c.name(), c.index(), c.attempt(), c.rank(), c.job_id()));
            Ok(())
        }))
    }
    let mut kernels = Kernels::builtin();
    kernels.register("panics", panics);
    kernels.register("fails", fails);
    kernels.register("describe", describe);
    kernels
}

fn once_with(spec: Spec) -> (Outcome, String, String) {
    let bench = bench_with(Job::new([spec]), kernels(), site());
    let outcome = bench.run(0);
    (outcome, bench.sink.out(0), bench.sink.err(0))
}

#[test]
fn a_constant_kernel_is_prepared_once() {
    use std::sync::atomic::{AtomicU32, Ordering};
    let count = Arc::new(AtomicU32::new(0));
    let mut kernels = Kernels::builtin();
    kernels.register("counted", {
        let count = count.clone();
        move |_: &toml::Table| -> Result<Prepared, ArgError> {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(Arc::new(|_| Ok(())))
        }
    });
    let bench = bench_with(Job::new([Spec::kernel("counted", "").array(100)]), kernels, site());
    for i in 0..100 {
        assert_eq!(bench.run(i), Outcome::OK);
    }
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[test]
fn a_kernel_knows_its_task() {
    let bench = bench_with(
        Job::new([Spec::kernel("noop", ""), Spec::kernel("describe", "greeting = 'hi'").array(9)]),
        kernels(),
        site(),
    );
    assert_eq!(bench.run(5), Outcome::OK);
    assert_eq!(bench.sink.out(5), "hi t Some(4) 1 rank 3 test-1");
    let dir = tempfile::tempdir().unwrap();
    let mut spec = Spec::kernel("describe", "greeting = 'hi'").dir(dir.path()).array(2);
    spec.task.stdout = Some("o/%x-%a".into());
    assert_eq!(once_with(spec).0, Outcome::OK);
    assert!(fs::read_to_string(dir.path().join("o/t-0")).unwrap().starts_with("hi t Some(0)"));
}

#[test]
fn failures_and_panics_are_told() {
    let (outcome, _, err) = once_with(Spec::kernel("fails", ""));
    assert_eq!((outcome, &*err), (FAILED, "about to\nphalanx: no luck\n"));
    let (outcome, _, err) = once_with(Spec::kernel("panics", ""));
    assert_eq!(outcome, FAILED);
    assert!(err.contains("panicked: out of cheese"), "{err}");
}

#[test]
fn mistakes_in_a_task_name_the_near_miss() {
    let (outcome, _, err) = once(Spec::kernel("sleeep", "seconds = 1"));
    assert_eq!((outcome, &*err), (FAILED, "phalanx: kernel `sleeep`: unknown kernel; did you mean `sleep`?\n"));
    let (_, _, err) = once(Spec::kernel("sleep", "second = 1").array(1));
    assert!(err.contains("args.second: unknown argument; did you mean `seconds`?"), "{err}");
    for (kernel, args, field) in [
        ("sleep", "", "seconds"),
        ("sleep", "seconds = -1", "seconds"),
        ("sleep", "seconds = 1e300", "seconds"),
        ("busy", "seconds = 1\nflops = 1", "flops"),
        ("memory", "size = 'lots'", "size"),
        ("mandelbrot", "width = 0\nheight = 1\noutput = 'x'", "width"),
        ("mandelbrot", "width = 9\nheight = 9\nband = 3\nbands = 3\noutput = 'x'", "band"),
        ("png", "input = 'a'\noutput = 'b'\nwidth = 1\nheight = -1", "height"),
        ("noop", "x = 1", "x"),
        ("compute_bound", "iterations = 1.5", "iterations"),
    ] {
        let (outcome, _, err) = once(Spec::kernel(kernel, args));
        assert_eq!(outcome, FAILED, "{kernel} {args}");
        assert!(err.contains(&format!("kernel `{kernel}`: args.{field}: ")), "{kernel} {args}: {err}");
    }
}

#[test]
fn a_sleep_is_long_enough_and_can_be_interrupted() {
    let start = Instant::now();
    assert_eq!(once(Spec::kernel("sleep", "seconds = 0.05")).0, Outcome::OK);
    assert!(start.elapsed() >= Duration::from_millis(50));

    let (outcome, _, err) = once(Spec::kernel("sleep", "seconds = 600").time(Duration::from_millis(50)));
    assert_eq!(outcome.state, State::Timeout);
    assert!(err.contains("over its time limit of 50ms"), "{err}");

    let bench = bench(Job::new([Spec::kernel("sleep", "seconds = 600"), Spec::kernel("busy", "seconds = 600")]));
    std::thread::scope(|s| {
        let runner = &bench.runner;
        let sleeps = s.spawn(move || runner.run(TaskId(0), &seat(0)));
        let works = s.spawn(move || runner.run(TaskId(1), &seat(1)));
        // One that is cancelled before it runs never does.
        let runs = |task| runner.running().any(|running| running == Some(TaskId(task)));
        while !runs(0) {}
        runner.cancel(0..1);
        assert_eq!(sleeps.join().unwrap().state, State::Cancelled);
        while !runs(1) {}
        runner.cancel(1..2);
        assert_eq!(works.join().unwrap().state, State::Cancelled);
    });
    bench.runner.stop_all(TaskStop::Terminate);
    assert_eq!(bench.run(0).state, State::Cancelled);
}

#[test]
fn a_kernel_that_returns_after_its_limit_is_timeout() {
    let spec = Spec::kernel("compute_bound", "iterations = 10000000").time(Duration::from_micros(1));
    assert_eq!(once(spec).0.state, State::Timeout);
}

#[test]
fn busy_uses_as_much_cpu_as_it_says() {
    let cpu = || rustix_cpu();
    let before = cpu();
    assert_eq!(once(Spec::kernel("busy", "seconds = 0.1")).0, Outcome::OK);
    let used = cpu() - before;
    assert!(used >= 0.1, "{used}");
    assert_eq!(once(Spec::kernel("busy", "flops = 1e7")).0, Outcome::OK);
    assert_eq!(once(Spec::kernel("busy", "flops = 0")).0, Outcome::OK);
}

/// CPU seconds of this thread, in which kernels run.
fn rustix_cpu() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[test]
fn memory_is_taken_or_refused() {
    assert_eq!(once(Spec::kernel("memory", "size = '100M'\nseconds = 0")).0, Outcome::OK);
    let (outcome, _, err) = once(Spec::kernel("memory", "size = '500T'"));
    assert_eq!(outcome, FAILED);
    assert!(err.contains("of 524288000 MiB of memory were available"), "{err}");
}

#[test]
fn a_picture_is_rendered_in_bands_and_becomes_a_png() {
    let dir = tempfile::tempdir().unwrap();
    let (width, height, bands) = (60, 41, 3);
    let view = format!("width = {width}\nheight = {height}\niterations = 200\n");
    let mut specs = vec![Spec::kernel("mandelbrot", &format!("{view}output = 'whole.rgb'")).dir(dir.path())];
    for band in 0..bands {
        let args = format!("{view}band = '{band}'\nbands = {bands}\noutput = 'bands/{band}.rgb'");
        specs.push(Spec::kernel("mandelbrot", &args).dir(dir.path()));
    }
    let png = "input = 'whole.rgb'\noutput = 'whole.png'\n";
    specs.push(Spec::kernel("png", &format!("{png}width = {width}\nheight = {height}")).dir(dir.path()));
    specs.push(Spec::kernel("png", &format!("{png}width = {width}\nheight = 99")).dir(dir.path()));
    let bench = bench(Job::new(specs));
    // One of them with several CPUs: the picture is the same.
    let several = ExecContext { cpus: &[0, 1], rayon: &pool, ..seat(0) };
    assert_eq!(bench.runner.run(TaskId(0), &several), Outcome::OK);
    (1..=4).for_each(|i| assert_eq!(bench.run(i), Outcome::OK, "{}", bench.sink.err(i)));

    let whole = fs::read(dir.path().join("whole.rgb")).unwrap();
    let parts: Vec<u8> =
        (0..bands).flat_map(|b| fs::read(dir.path().join(format!("bands/{b}.rgb"))).unwrap()).collect();
    assert_eq!(whole.len(), 3 * width * height);
    assert_eq!(whole, parts);
    let middle = 3 * (width * (height / 2) + width * 6 / 10);
    assert_eq!(whole[middle..middle + 3], [0; 3], "the set itself is black");
    assert!(whole.chunks(3).collect::<std::collections::HashSet<_>>().len() > 100, "the rest is colourful");

    let file = std::io::BufReader::new(fs::File::open(dir.path().join("whole.png")).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    assert_eq!(pixels, whole);

    assert_eq!(bench.run(5), FAILED);
    assert!(bench.sink.err(5).contains("60 x 99 pixels"), "{}", bench.sink.err(5));
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(names.iter().all(|n| !n.to_string_lossy().starts_with('.')), "leftovers: {names:?}");
}
