//! The initial stack: strings, auxiliary vector, environment, arguments.

use crate::Errno;

/// Longest single string (`MAX_ARG_STRLEN`).
const STRING_MAX: usize = 128 << 10;

/// Room for all strings, whatever the stack limit: at least this, at most 3/4 of 8 MiB.
const ROOM_MIN: u64 = 128 << 10;
const ROOM_MAX: u64 = 6 << 20;

/// What goes on the stack.
pub(super) struct Contents<'a> {
    pub argv: &'a [Vec<u8>],
    pub envp: &'a [Vec<u8>],
    /// `AT_EXECFN`.
    pub path: &'a [u8],
    /// `AT_RANDOM`.
    pub random: [u8; 16],
    /// Entries whose values are known already.
    pub aux: &'a [(u64, u64)],
}

/// The finished bytes, which end at the stack's top, and where things are.
#[derive(Debug)]
pub(super) struct Stack {
    pub bytes: Vec<u8>,
    pub sp: u64,
    pub args: std::ops::Range<u64>,
    pub env: std::ops::Range<u64>,
    pub auxv: std::ops::Range<u64>,
}

/// Checks Linux's limits on arguments and environment.
///
/// # Errors
/// `E2BIG`.
pub(super) fn check_size(argv: &[Vec<u8>], envp: &[Vec<u8>], path: &[u8], stack_limit: u64) -> Result<(), Errno> {
    let room = (stack_limit / 4).clamp(ROOM_MIN, ROOM_MAX);
    let mut total = path.len() as u64 + 1;
    for string in argv.iter().chain(envp) {
        if string.len() >= STRING_MAX {
            return Err(Errno::E2BIG);
        }
        total += string.len() as u64 + 1 + 8;
    }
    if total > room { Err(Errno::E2BIG) } else { Ok(()) }
}

const AT_NULL: u64 = 0;
const AT_PLATFORM: u64 = 15;
const AT_RANDOM: u64 = 25;
const AT_EXECFN: u64 = 31;

/// Lays out a stack that ends at `top`, as fs/binfmt_elf.c does.
pub(super) fn build(top: u64, contents: &Contents<'_>) -> Stack {
    // Strings, from the top down: 8 zero bytes, path, environment, arguments.
    let mut strings = Vec::new();
    let strings_len = |list: &[Vec<u8>]| list.iter().map(|string| string.len() as u64 + 1).sum::<u64>();
    let path_at = top - 8 - (contents.path.len() as u64 + 1);
    let env_at = path_at - strings_len(contents.envp);
    let args_at = env_at - strings_len(contents.argv);
    for string in contents.argv.iter().chain(contents.envp).map(Vec::as_slice).chain([contents.path]) {
        strings.extend_from_slice(string);
        strings.push(0);
    }
    strings.extend_from_slice(&[0; 8]);
    let platform = b"x86_64\0";
    let platform_at = (args_at & !15) - 16;
    let random_at = platform_at - 16;
    let words = 1 + contents.argv.len() + 1 + contents.envp.len() + 1 + 2 * (contents.aux.len() + 4);
    let sp = (random_at - 8 * words as u64) & !15;

    let mut bytes = Vec::with_capacity((top - sp) as usize);
    let mut word = |value: u64| bytes.extend_from_slice(&value.to_le_bytes());
    word(contents.argv.len() as u64);
    for (list, start) in [(contents.argv, args_at), (contents.envp, env_at)] {
        let mut at = start;
        for string in list {
            word(at);
            at += string.len() as u64 + 1;
        }
        word(0);
    }
    let mut auxv_words = 0;
    let own = [(AT_RANDOM, random_at), (AT_EXECFN, path_at), (AT_PLATFORM, platform_at), (AT_NULL, 0)];
    for &(kind, value) in contents.aux.iter().chain(&own) {
        word(kind);
        word(value);
        auxv_words += 2;
    }
    let auxv_end = sp + bytes.len() as u64;
    let auxv = auxv_end - 8 * auxv_words..auxv_end;
    bytes.resize((random_at - sp) as usize, 0);
    bytes.extend_from_slice(&contents.random);
    bytes.extend_from_slice(platform);
    bytes.resize((args_at - sp) as usize, 0);
    bytes.extend_from_slice(&strings);
    Stack { bytes, sp, args: args_at..env_at, env: env_at..path_at, auxv }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_laid_out_as_linux_does() {
        let top = 0x7fff_0000_0000;
        let argv = [b"prog".to_vec(), b"-x".to_vec()];
        let envp = [b"A=1".to_vec()];
        let stack = build(top, &Contents { argv: &argv, envp: &envp, path: b"/bin/prog", random: [7; 16], aux: &[(6, 4096)] });
        assert_eq!(stack.sp % 16, 0);
        assert_eq!(stack.sp + stack.bytes.len() as u64, top);
        let word = |n: usize| u64::from_le_bytes(stack.bytes[n * 8..n * 8 + 8].try_into().expect("8 bytes"));
        let text = |addr: u64| {
            let rest = &stack.bytes[(addr - stack.sp) as usize..];
            rest.split(|&byte| byte == 0).next().expect("text").to_vec()
        };
        assert_eq!(word(0), 2);
        assert_eq!((text(word(1)), text(word(2)), word(3)), (b"prog".to_vec(), b"-x".to_vec(), 0));
        assert_eq!((text(word(4)), word(5)), (b"A=1".to_vec(), 0));
        assert_eq!((word(6), word(7)), (6, 4096));
        assert_eq!(word(8), AT_RANDOM);
        assert_eq!(&stack.bytes[(word(9) - stack.sp) as usize..][..16], &[7; 16]);
        assert_eq!((word(10), text(word(11))), (AT_EXECFN, b"/bin/prog".to_vec()));
        assert_eq!((word(12), text(word(13))), (AT_PLATFORM, b"x86_64".to_vec()));
        assert_eq!((word(14), word(15)), (0, 0));
    }

    #[test]
    fn limits() {
        let big = vec![b'a'; STRING_MAX];
        assert_eq!(check_size(&[big], &[], b"", 8 << 20), Err(Errno::E2BIG));
        let many: Vec<Vec<u8>> = vec![vec![b'a'; 1000]; 200];
        assert_eq!(check_size(&many, &[], b"", 1), Err(Errno::E2BIG));
        assert_eq!(check_size(&many, &[], b"", 8 << 20), Ok(()));
    }
}
