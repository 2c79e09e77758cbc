//! Counts of cases, and the closing line.

use anyhow::{Result, bail};

#[derive(Default)]
pub struct Tally {
    passed: usize,
    expected: usize,
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

    pub fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.expected += other.expected;
        self.failures.extend(other.failures);
    }

    /// Prints the closing line; an error if anything failed.
    pub fn finish(self) -> Result<()> {
        for failure in &self.failures {
            println!("failed: {failure}");
        }
        let failed = self.failures.len();
        println!("{} passed, {failed} failed, {} known failures", self.passed, self.expected);
        if failed > 0 {
            bail!("{failed} failed");
        }
        Ok(())
    }
}
