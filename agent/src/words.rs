//! Words that refusals, pages and the command line share: why slices begin and end, and how many there are of something.

use std::fmt::Display;

use dormouse_metering::Cause;

/// So many of something, which is named as one of them is: `1 slice`, `2 slices`.
pub(crate) fn counted(count: impl Display, one: &str) -> String {
    let count = count.to_string();
    match (count.as_str(), one.strip_suffix('y')) {
        ("1", _) => format!("1 {one}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        _ if one.ends_with('x') => format!("{count} {one}es"),
        _ => format!("{count} {one}s"),
    }
}

/// Why a slice begins or ends.
pub(crate) fn why(cause: &str) -> &str {
    let Some(known) = Cause::parse(cause) else { return cause };
    match known {
        Cause::Attach => "it was found",
        Cause::Detach => "it was handed back",
        Cause::Scale => "it was scaled",
        Cause::Resize => "its size changed by itself",
        Cause::Pause => "it was paused",
        Cause::Resume => "it was resumed",
        Cause::Hibernate => "it was hibernated",
        Cause::HibernateFailed => "hibernating failed, and it runs on",
        Cause::Wake => "it was woken",
        Cause::WakeFailed => "waking failed, and it is hibernated as before",
        Cause::Reboot => "it was rebooted",
        Cause::Destroy => "it was destroyed",
        Cause::Stop => "somebody else stopped it",
        Cause::Continue => "somebody else continued it",
        Cause::Reset => "it was reset, not by command",
        Cause::Shutdown => "it shut down",
        Cause::Death => "its QEMU ended without a word",
        Cause::Fault => "QEMU stopped it because of a fault",
        Cause::Resync => "it was asked again after a time without contact",
        Cause::ProofEnded => "proof that it existed ended",
        Cause::Found => "it was found again",
        Cause::Hour => "an hour was full",
        Cause::Tick => "a tick of a prepaid org",
        Cause::ClockStep => "the wall clock was stepped",
        Cause::HostBoot => "the host was booted",
        Cause::Suppress => "the platform asked not to bill from here",
        Cause::Unsuppress => "the platform asked to bill again",
        Cause::Create => "it was created",
        Cause::PowerCycle => "it was power-cycled",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_told_as_one_and_all_else_as_many() {
        for (count, one, told) in [
            (0, "slice", "0 slices"),
            (1, "slice", "1 slice"),
            (2, "sandbox", "2 sandboxes"),
            (1, "sandbox", "1 sandbox"),
            (11, "anomaly", "11 anomalies"),
            (1, "anomaly", "1 anomaly"),
        ] {
            assert_eq!(counted(count, one), told);
        }
        assert_eq!((counted("0.5", "vCPU"), counted("1", "vCPU")), ("0.5 vCPUs".into(), "1 vCPU".into()));
    }

    #[test]
    fn every_cause_is_told_in_words() {
        for cause in Cause::ALL {
            assert_ne!(why(cause.as_str()), cause.as_str());
        }
        assert_eq!(why("something new"), "something new");
    }
}
