//! Tensor types of GGUF files and their block layout.

/// How a tensor's values are stored. Discriminants are the numbers in the file.
#[allow(non_camel_case_types, missing_docs, reason = "names are the format's own")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum GgmlType {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q8_1 = 9,
    Q2_K = 10,
    Q3_K = 11,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    Q8_K = 15,
    IQ2_XXS = 16,
    IQ2_XS = 17,
    IQ3_XXS = 18,
    IQ1_S = 19,
    IQ4_NL = 20,
    IQ3_S = 21,
    IQ2_S = 22,
    IQ4_XS = 23,
    I8 = 24,
    I16 = 25,
    I32 = 26,
    I64 = 27,
    F64 = 28,
    IQ1_M = 29,
    BF16 = 30,
    TQ1_0 = 34,
    TQ2_0 = 35,
    MXFP4 = 39,
    NVFP4 = 40,
    Q1_0 = 41,
    Q2_0 = 42,
}

impl GgmlType {
    const TABLE: &[(GgmlType, usize, usize)] = {
        use GgmlType::*;
        // (type, values a block, bytes a block)
        &[
            (F32, 1, 4),
            (F16, 1, 2),
            (Q4_0, 32, 18),
            (Q4_1, 32, 20),
            (Q5_0, 32, 22),
            (Q5_1, 32, 24),
            (Q8_0, 32, 34),
            (Q8_1, 32, 36),
            (Q2_K, 256, 84),
            (Q3_K, 256, 110),
            (Q4_K, 256, 144),
            (Q5_K, 256, 176),
            (Q6_K, 256, 210),
            (Q8_K, 256, 292),
            (IQ2_XXS, 256, 66),
            (IQ2_XS, 256, 74),
            (IQ3_XXS, 256, 98),
            (IQ1_S, 256, 50),
            (IQ4_NL, 32, 18),
            (IQ3_S, 256, 110),
            (IQ2_S, 256, 82),
            (IQ4_XS, 256, 136),
            (I8, 1, 1),
            (I16, 1, 2),
            (I32, 1, 4),
            (I64, 1, 8),
            (F64, 1, 8),
            (IQ1_M, 256, 56),
            (BF16, 1, 2),
            (TQ1_0, 256, 54),
            (TQ2_0, 256, 66),
            (MXFP4, 32, 17),
            (NVFP4, 64, 36),
            (Q1_0, 128, 18),
            (Q2_0, 64, 18),
        ]
    };

    /// The type with this number in the file.
    pub fn from_u32(number: u32) -> Option<Self> {
        Self::TABLE.iter().find(|(t, ..)| *t as u32 == number).map(|(t, ..)| *t)
    }

    /// Values in a block.
    pub fn block_values(self) -> usize {
        self.layout().0
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.layout().1
    }

    /// Bytes of `n` values that fill whole blocks; `None` when they do not or on overflow.
    pub fn bytes_for(self, n: usize) -> Option<usize> {
        let (values, bytes) = self.layout();
        n.is_multiple_of(values).then(|| (n / values).checked_mul(bytes)).flatten()
    }

    fn layout(self) -> (usize, usize) {
        Self::TABLE.iter().find(|(t, ..)| *t == self).map_or((1, 1), |(_, v, b)| (*v, *b))
    }
}

impl std::fmt::Display for GgmlType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}
