use std::collections::BTreeSet;
use std::str::FromStr;

/// Which of its machine's GPUs a worker lends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum GpuWish {
    /// All that the agent's own `CUDA_VISIBLE_DEVICES` does not hide.
    #[default]
    Auto,
    /// None; they are not looked for.
    None,
    /// These, by the numbers that `nvidia-smi` gives them; they have to be there.
    These(BTreeSet<u32>),
}

/// Why a text is no wish.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither auto, none nor a list of GPUs such as 0,1")]
pub struct NoWish(String);

impl FromStr for GpuWish {
    type Err = NoWish;

    fn from_str(text: &str) -> Result<Self, NoWish> {
        let index = |index: &str| index.trim().parse().map_err(|_| NoWish(text.to_owned()));
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            list => Ok(Self::These(
                list.split(',').map(index).collect::<Result<_, _>>()?,
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_a_word_or_a_list() {
        let these = |all: &[u32]| Ok(GpuWish::These(all.iter().copied().collect()));
        assert_eq!("auto".parse(), Ok(GpuWish::Auto));
        assert_eq!("none".parse(), Ok(GpuWish::None));
        assert_eq!("3".parse(), these(&[3]));
        assert_eq!("0, 2,2".parse(), these(&[0, 2]));
        for text in ["", "all", "0,", "-1", "0-3"] {
            assert_eq!(text.parse::<GpuWish>(), Err(NoWish(text.to_owned())));
        }
    }
}
