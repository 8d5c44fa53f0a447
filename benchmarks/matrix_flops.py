"""Floating-point operations of the matrix products and convolutions of a function.

What a chip's matrix rate is compared with: elementwise work, reductions and
whatever a compiler does twice are not counted.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


def count(function: Callable, *args: Any) -> float:
  """FLOPs of one call; a multiplication and an addition are two.

  Args:
    function: any that jax can trace. Of branches the dearest counts; the trips
      of a `while` cannot be known, and count as one.
    *args: arrays, or their shapes.
  """
  return _of_jaxpr(jax.make_jaxpr(function)(*args).jaxpr)


def _of_jaxpr(jaxpr) -> float:
  return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation) -> float:
  name, params = equation.primitive.name, equation.params
  if name == "dot_general":
    (contracted, _), _ = params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    terms = math.prod(shape[axis] for axis in contracted)
    return 2.0 * terms * math.prod(equation.outvars[0].aval.shape)
  if name == "conv_general_dilated":
    return _of_convolution(equation)
  if name == "cond":
    return max(_of_jaxpr(branch.jaxpr) for branch in params["branches"])
  inner = sum(_of_jaxpr(jaxpr) for jaxpr in _jaxprs(params))
  return inner * params["length"] if name == "scan" else inner


def _of_convolution(equation) -> float:
  # Dilation inserts zeros, of inputs in the gradient of a strided convolution:
  # they are no work, and neither is padding, but the latter is not looked at.
  params = equation.params
  numbers = params["dimension_numbers"]
  kernel = equation.invars[1].aval.shape
  terms = math.prod(kernel) / kernel[numbers.rhs_spec[0]]
  dilation = math.prod(params["lhs_dilation"])
  out = math.prod(equation.outvars[0].aval.shape)
  return 2.0 * terms * out / dilation


def _jaxprs(params):
  for value in params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      if isinstance(item, core.ClosedJaxpr):
        yield item.jaxpr
      elif isinstance(item, core.Jaxpr):
        yield item
