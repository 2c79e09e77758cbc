//! Counts of cases, and the closing line.

use anyhow::{Result, bail};

/// How many cases of a run may need a second try: more are no accident.
const SECOND_TRIES: usize = 3;

#[derive(Default)]
pub struct Tally {
    passed: usize,
    expected: usize,
    skipped: Vec<String>,
    /// Passed at the second try, with what the first one said.
    unsteady: Vec<String>,
    failures: Vec<String>,
}

impl Tally {
    pub fn pass(&mut self) {
        self.passed += 1;
    }

    /// A failure that a list of known ones names.
    pub fn known(&mut self) {
        self.expected += 1;
    }

    /// A case that says that it cannot be run here.
    pub fn skip(&mut self, what: impl Into<String>) {
        self.skipped.push(what.into());
    }

    pub fn fail(&mut self, what: impl Into<String>) {
        let what = what.into();
        println!("FAILED {what}");
        self.failures.push(what);
    }

    /// Counts a step; its error is a failure named `name`.
    pub fn step<T>(&mut self, name: &str, result: Result<T>) {
        match result {
            Ok(_) => {
                println!("ok {name}");
                self.pass();
            }
            Err(error) => self.fail(format!("{name}: {error:#}")),
        }
    }

    /// As [`Tally::step`], with a second try: for cases with processes and clocks, which the load of a shared machine can bend.
    /// What needed it is named at the end, for somebody to look at. Where so much fails that it is no accident, there is none.
    pub fn attempt<T>(&mut self, name: &str, first: Result<T>, again: impl FnOnce() -> Result<T>) {
        let error = match first {
            Err(error) if self.failures.len() + self.unsteady.len() <= SECOND_TRIES => error,
            decided => return self.step(name, decided),
        };
        println!("once more {name}: {error:#}");
        match again() {
            Ok(_) => {
                self.passed += 1;
                self.unsteady.push(format!("{name}: {error:#}"));
            }
            Err(error) => self.fail(format!("{name}, twice: {error:#}")),
        }
    }

    pub fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.expected += other.expected;
        self.skipped.extend(other.skipped);
        self.unsteady.extend(other.unsteady);
        self.failures.extend(other.failures);
    }

    /// Prints the closing line; an error if anything failed.
    pub fn finish(mut self) -> Result<()> {
        for case in &self.unsteady {
            println!("passed at the second try: {case}");
        }
        if self.unsteady.len() > SECOND_TRIES {
            self.failures.push(format!("{} cases needed a second try", self.unsteady.len()));
        }
        for case in &self.skipped {
            println!("skipped: {case}");
        }
        for failure in &self.failures {
            println!("failed: {failure}");
        }
        let failed = self.failures.len();
        println!("{} passed, {failed} failed, {} known failures, {} skipped", self.passed, self.expected, self.skipped.len());
        if failed > 0 {
            bail!("{failed} failed");
        }
        Ok(())
    }
}
