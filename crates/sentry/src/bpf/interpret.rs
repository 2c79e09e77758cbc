//! Running a [`Program`].

use super::program::{Alu, Compare, MEM_WORDS, Op, Operand, Program, Size};

/// What a program looks at.
pub trait Data {
    /// A part of it. None: it is not there.
    fn load(&self, size: Size, offset: u32) -> Option<u32>;

    /// Its length in bytes.
    fn length(&self) -> u32;
}

impl Program {
    /// What it says of `data`; None when it asks for something that is not there.
    pub fn run(&self, data: &impl Data) -> Option<u32> {
        let (mut a, mut x) = (0u32, 0u32);
        let mut memory = [0u32; MEM_WORDS];
        let mut at = 0;
        // Jumps go forward only, so this ends.
        while let Some(op) = self.ops.get(at) {
            at += 1;
            let value = |operand: Operand| match operand {
                Operand::K(k) => k,
                Operand::X => x,
            };
            match *op {
                Op::LoadData(size, offset) => a = data.load(size, offset)?,
                // Below 0, where the facts are, nothing is reached by X.
                Op::LoadDataAtX(size, offset) => {
                    let at = x.wrapping_add(offset);
                    a = data.load(size, at).filter(|_| at <= i32::MAX as u32)?;
                }
                Op::LoadXHeader(offset) => x = (data.load(Size::Byte, offset)? & 0xf) * 4,
                Op::LoadLength => a = data.length(),
                Op::LoadXLength => x = data.length(),
                Op::LoadImm(k) => a = k,
                Op::LoadMem(word) => a = memory.get(word).copied().unwrap_or(0),
                Op::LoadXImm(k) => x = k,
                Op::LoadXMem(word) => x = memory.get(word).copied().unwrap_or(0),
                Op::Store(word) => store(&mut memory, word, a),
                Op::StoreX(word) => store(&mut memory, word, x),
                Op::Alu(alu, operand) => match compute(alu, a, value(operand)) {
                    Some(result) => a = result,
                    // Division by zero ends a program with 0.
                    None => return Some(0),
                },
                Op::Neg => a = a.wrapping_neg(),
                Op::Tax => x = a,
                Op::Txa => a = x,
                Op::Jump(by) => at += by,
                Op::Branch(compare, operand, yes, no) => at += if holds(compare, a, value(operand)) { yes } else { no },
                Op::Return(k) => return Some(k),
                Op::ReturnA => return Some(a),
            }
        }
        Some(0)
    }
}

fn store(memory: &mut [u32; MEM_WORDS], word: usize, value: u32) {
    if let Some(place) = memory.get_mut(word) {
        *place = value;
    }
}

/// None: `a` is divided by zero.
fn compute(alu: Alu, a: u32, b: u32) -> Option<u32> {
    Some(match alu {
        Alu::Add => a.wrapping_add(b),
        Alu::Sub => a.wrapping_sub(b),
        Alu::Mul => a.wrapping_mul(b),
        Alu::Div => a.checked_div(b)?,
        Alu::Mod => a.checked_rem(b)?,
        Alu::And => a & b,
        Alu::Or => a | b,
        Alu::Xor => a ^ b,
        // As the processor shifts.
        Alu::Lsh => a.wrapping_shl(b),
        Alu::Rsh => a.wrapping_shr(b),
    })
}

fn holds(compare: Compare, a: u32, b: u32) -> bool {
    match compare {
        Compare::Equal => a == b,
        Compare::Greater => a > b,
        Compare::GreaterEqual => a >= b,
        Compare::AnyBit => a & b != 0,
    }
}
