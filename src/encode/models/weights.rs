//! A weights file as candle's networks ask for it: tensors are read one by one, so that those nobody asks for cost no memory.

use std::path::Path;

use candle_core::{DType, Device, Error, Result, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use crate::base::tensors::{self, File};

struct Weights(File<'static>);

/// The tensors of a safetensors file. What is wrong with it is told in words.
pub(in crate::encode) fn open(path: &Path) -> std::result::Result<VarBuilder<'static>, String> {
    let file = tensors::open(path).map_err(|e| e.to_string())?;
    Ok(VarBuilder::from_backend(Box::new(Weights(file)), DType::F32, Device::Cpu))
}

impl SimpleBackend for Weights {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let values = self.0.take(name, shape.dims()).map_err(|e| Error::Msg(e.to_string()))?;
        Tensor::from_vec(values, shape, device)?.to_dtype(dtype)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let shape = self.0.shape(name).map_err(|e| Error::Msg(e.to_string()))?;
        self.get(shape.into(), name, Init::default(), dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.shape(name).is_ok()
    }
}
