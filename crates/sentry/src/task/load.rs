//! [`LoadAverage`]: how many tasks ran, on average, over the last 1, 5 and 15 minutes.
//!
//! Linux counts runnable tasks every five seconds. An idle sandbox is to do nothing at all, so here the averages are brought up to date when
//! somebody looks, from the CPU time used since the last look.

use parking_lot::Mutex;

/// Decaying averages over 1, 5 and 15 minutes.
#[derive(Default)]
pub struct LoadAverage {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    at_ns: u64,
    cpu_ns: u64,
    loads: [f64; 3],
}

const PERIODS_NS: [f64; 3] = [60e9, 300e9, 900e9];
/// Looks that follow each other closer than this give the same answer.
const LEAST_NS: u64 = 100_000_000;

impl LoadAverage {
    /// The averages at `now_ns`, when all tasks together have used `cpu_ns`.
    pub fn at(&self, now_ns: u64, cpu_ns: u64) -> [f64; 3] {
        let mut state = self.state.lock();
        let passed = now_ns.saturating_sub(state.at_ns);
        if passed >= LEAST_NS {
            let busy = cpu_ns.saturating_sub(state.cpu_ns) as f64 / passed as f64;
            for (load, period) in state.loads.iter_mut().zip(PERIODS_NS) {
                let keep = (-(passed as f64) / period).exp();
                *load = *load * keep + busy * (1.0 - keep);
            }
            (state.at_ns, state.cpu_ns) = (now_ns, cpu_ns);
        }
        state.loads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_to_what_runs_and_falls_again() {
        let load = LoadAverage::default();
        let minute = 60_000_000_000;
        load.at(minute, 0);
        let busy = load.at(11 * minute, 20 * minute);
        assert!((busy[0] - 2.0).abs() < 0.01 && busy[2] > 0.9 && busy[2] < busy[1], "{busy:?}");
        let idle = load.at(21 * minute, 20 * minute);
        assert!(idle[0] < 0.01 && idle[2] > 0.3, "{idle:?}");
    }
}
