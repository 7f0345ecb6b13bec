//! What the machine has of memory, and what this process occupies of it, where the system says so (Linux).

/// Memory of the machine in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineMemory {
    pub total: u64,
    /// What a new program could use without swapping.
    pub available: u64,
}

/// Memory of this process in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resident {
    pub now: u64,
    /// Largest so far.
    pub peak: u64,
    /// The part that is not of a file.
    pub anonymous: u64,
}

/// Memory of the machine, as far as this process may use it.
pub fn memory() -> Option<MachineMemory> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let machine = MachineMemory { total: bytes(&text, "MemTotal:")?, available: bytes(&text, "MemAvailable:")? };
    Some(within(machine, limit()))
}

/// The machine's memory under a limit (with what of it is in use).
fn within(machine: MachineMemory, limit: Option<(u64, u64)>) -> MachineMemory {
    let Some((limit, used)) = limit.filter(|(limit, _)| *limit < machine.total) else { return machine };
    MachineMemory { total: limit, available: machine.available.min(limit.saturating_sub(used)) }
}

/// Limit and use of the control group that this process is in (version 2, as containers see it).
fn limit() -> Option<(u64, u64)> {
    let number = |name: &str| std::fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?.trim().parse().ok();
    Some((number("memory.max")?, number("memory.current")?))
}

/// Memory of this process.
pub fn resident() -> Option<Resident> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    Some(Resident { now: bytes(&text, "VmRSS:")?, peak: bytes(&text, "VmHWM:")?, anonymous: bytes(&text, "RssAnon:")? })
}

/// The figure behind `key`, which is written in kB (of 1024 bytes).
fn bytes(text: &str, key: &str) -> Option<u64> {
    let figure = text.lines().find_map(|l| l.strip_prefix(key))?.trim().strip_suffix("kB")?;
    figure.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_by_key_and_a_limit_counts() {
        let text = "MemTotal:       24000 kB\nMemFree: 1 kB\nMemAvailable:   23000 kB\nOdd: x kB\n";
        assert_eq!(bytes(text, "MemAvailable:"), Some(23000 * 1024));
        assert_eq!((bytes(text, "Odd:"), bytes(text, "None:")), (None, None));
        let machine = MachineMemory { total: 100, available: 80 };
        assert_eq!(within(machine, None), machine);
        assert_eq!(within(machine, Some((200, 50))), machine);
        assert_eq!(within(machine, Some((60, 50))), MachineMemory { total: 60, available: 10 });
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_seen() {
        let seen = resident().unwrap();
        assert!(seen.anonymous <= seen.now && seen.now <= seen.peak, "{seen:?}");
    }
}
