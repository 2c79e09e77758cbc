//! Whether a kernel's configuration is what was asked for.

use std::collections::BTreeMap;

/// The options of `wanted` that are not so in `got`, as `NAME=value`. kconfig drops what depends on something that is off without a word.
pub fn lost(wanted: &str, got: &str) -> Vec<String> {
    let got: BTreeMap<&str, &str> = got.lines().filter_map(option).collect();
    let off = |name: &str| got.get(name).is_none_or(|value| *value == "n");
    let differs = |&(name, value): &(&str, &str)| match value {
        "n" => !off(name),
        value => got.get(name) != Some(&value),
    };
    wanted.lines().filter_map(option).filter(differs).map(|(name, value)| format!("{name}={value}")).collect()
}

/// An option and its value in a line.
fn option(line: &str) -> Option<(&str, &str)> {
    match line.strip_prefix("# ").and_then(|rest| rest.strip_suffix(" is not set")) {
        Some(name) => Some((name, "n")),
        None => line.split_once('=').filter(|(name, _)| name.starts_with("CONFIG_")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::CONFIG;

    #[test]
    fn what_was_dropped_is_named() {
        let wanted = "# a note\nCONFIG_A=y\nCONFIG_B=y\nCONFIG_N=3\n# CONFIG_C is not set\n# CONFIG_D is not set\n";
        assert_eq!(lost(wanted, "CONFIG_A=y\nCONFIG_B=y\nCONFIG_N=3\n# CONFIG_C is not set\n"), Vec::<String>::new());
        let got = "# CONFIG_A is not set\nCONFIG_N=30\nCONFIG_C=y\n";
        assert_eq!(lost(wanted, got), ["CONFIG_A=y", "CONFIG_B=y", "CONFIG_N=3", "CONFIG_C=n"]);
    }

    #[test]
    fn our_configuration_says_each_option_once() {
        let mut names: Vec<&str> = CONFIG.lines().filter_map(option).map(|(name, _)| name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!((names.len(), count > 100), (count, true));
    }
}
