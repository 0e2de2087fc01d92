//! A plan of the core simulator, from bytes.
//!
//! Decides how bytes become a plan: the first eight are the seed that draws
//! cluster, clocks, network and workload; every five after them are a fault and
//! how long after the one before. Whoever shortens the input removes faults,
//! which is what a shorter counterexample is.

use crate::batch::{Outcome, run_caught};
use crate::plan::Plan;
use crate::plan_file::PlanFile;
use crate::trace::TraceMode;

/// The most faults in one plan: longer inputs say nothing that shorter ones
/// don't, and take longer.
const FAULTS_MAX: usize = 40;

/// Runs the plan that these bytes are.
///
/// # Panics
/// If a property does not hold; the message is the plan, which can be run
/// again.
pub fn plan(data: &[u8]) {
    let Some(plan) = decode(data) else { return };
    if let Outcome::Failed(why) = run_caught(&plan, TraceMode::Off) {
        let text = PlanFile::new(&plan, why.to_string()).text();
        panic!("{why}\nrepeat: save this as plan.json; cargo run --release -p base-ha-sim -- --plan plan.json\n{text}");
    }
}

fn decode(data: &[u8]) -> Option<Plan> {
    let (seed, rest) = data.split_first_chunk::<8>()?;
    let mut plan = Plan::calm(u64::from_le_bytes(*seed));
    let mut at_ms = 0;
    for chunk in rest.as_chunks::<5>().0.iter().take(FAULTS_MAX) {
        let [after, kind, a, b, c] = *chunk;
        at_ms += u64::from(after) * 16;
        if at_ms >= plan.chaos_ms {
            break;
        }
        plan.add_fault(at_ms, usize::from(kind), u64::from_le_bytes([a, b, c, 0, 0, 0, 0, 0]));
    }
    Some(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bytes_are_the_same_plan_and_fewer_are_fewer_faults() {
        let bytes: Vec<u8> = (0..60).collect();
        let plan = decode(&bytes).expect("long enough");
        assert_eq!(decode(&bytes), Some(plan.clone()));
        assert_eq!(plan.faults.len(), (60 - 8) / 5);
        assert_eq!(decode(&bytes[..33]).expect("long enough").faults[..], plan.faults[..5]);
    }
}
