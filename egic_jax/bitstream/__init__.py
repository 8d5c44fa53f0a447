"""From images to bytes and back: container, tables, range coder, model file.

Import what you need from the submodule that defines it, for example
`egic_jax.bitstream.codec.ImageCodec`. This package imports no training code,
no checkpoint library and no data library.
"""
