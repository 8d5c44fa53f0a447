"""Programs from disk: not traced again, the same to the bit, never wrong."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from egic_jax import allocator, program_store, stored_program


@pytest.fixture
def directory(tmp_path):
  before = program_store.current()
  assert program_store.use(tmp_path / "kept")
  yield tmp_path / "kept"
  program_store._current = before


@pytest.fixture
def traces():
  return []


@pytest.fixture
def program(traces):
  """Makes what another process would: nothing compiled, the same key."""

  def make(key="affine", offset=0.5):
    def affine(n, params, x, extra):
      traces.append(n)
      return jnp.sin(params["w"] @ x) * n + extra[0] + offset

    jitted = jax.jit(affine, static_argnums=(0,))
    return stored_program.StoredProgram(jitted, key, static_argnums=(0,))

  return make


@pytest.fixture
def arguments():
  rng = np.random.default_rng(0)
  params = {"w": jnp.asarray(rng.normal(size=(16, 16)), jnp.float32)}
  return params, rng.normal(size=16).astype(np.float32), (np.float32(2),)


pytestmark = pytest.mark.skipif(
  jax.default_backend() != "cpu" or jax.device_count() > 1,
  reason="needs a single CPU device",
)


def test_a_second_process_does_not_trace(directory, program, arguments, traces):
  first = np.asarray(program()(3, *arguments))
  assert traces == [3]
  later = program()
  np.testing.assert_array_equal(later(3, *arguments), first)
  np.testing.assert_array_equal(later(3, *arguments), first)
  assert traces == [3]
  assert later._cache_size() == 1


def test_crumbs_are_set_aside_from_the_second_call_on(
  directory, program, arguments, traces, monkeypatch
):
  events = []

  class Heap:
    release = staticmethod(lambda: events.append("release"))
    set_aside = staticmethod(lambda: events.append("set aside"))
    leave_cushion = staticmethod(lambda: None)

  monkeypatch.setattr(allocator, "_heap", Heap)
  function = program("crumbs")
  function(3, *arguments)
  assert events == ["release"]
  function(2, *arguments)  # Another program.
  assert events == ["release"] * 2
  function(3, *arguments)
  assert events == ["release"] * 2 + ["set aside"]
  function(3, *arguments)
  function(2, *arguments)
  assert events == ["release"] * 2 + ["set aside"]
  # What comes from disk leaves none.
  program("crumbs")(3, *arguments)
  assert events == ["release"] * 2 + ["set aside"]


def test_static_arguments_shapes_and_keys_have_their_own(
  directory, program, arguments, traces
):
  params, x, extra = arguments
  program()(3, *arguments)
  np.testing.assert_allclose(
    program()(4, *arguments) - 2.5,
    (program()(3, *arguments) - 2.5) * 4 / 3,
    rtol=1e-5,
  )
  wide = program()(3, params, np.stack([x, x], axis=-1), extra)
  assert wide.shape == (16, 2)
  other = program("another", offset=1.5)(3, *arguments)
  np.testing.assert_allclose(other - program()(3, *arguments), 1, rtol=1e-5)
  assert traces == [3, 4, 3, 3]


def test_damaged_files_are_compiled_again(
  directory, program, arguments, traces
):
  first = np.asarray(program()(3, *arguments))
  (path,) = directory.iterdir()
  whole = path.read_bytes()
  path.write_bytes(whole[:-100] + bytes(100))
  np.testing.assert_array_equal(program()(3, *arguments), first)
  assert traces == [3, 3]
  program()(3, *arguments)
  assert traces == [3, 3]


def test_foreign_content_is_compiled_again(
  directory, program, arguments, traces, monkeypatch
):
  first = np.asarray(program()(3, *arguments))
  monkeypatch.setattr(program_store.Store, "read", lambda *_: b"no pickle")
  np.testing.assert_array_equal(program()(3, *arguments), first)
  assert traces == [3, 3]


def test_unpromised_parameters_are_left_to_jit(directory, program, arguments):
  params, x, extra = arguments
  stored = program()
  stored(3, *arguments)
  short = {"w": params["w"][:5]}
  expected = np.sin(np.asarray(short["w"]) @ x) * 3 + 2.5
  np.testing.assert_allclose(stored(3, short, x, extra), expected, rtol=1e-4)


def test_prepared_while_something_else_is_done(
  directory, program, arguments, traces
):
  params, x, extra = arguments
  prepared = program()
  shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
  prepared.prepare(3, params, shape, extra)
  first = np.asarray(prepared(3, *arguments))
  assert traces == [3]
  np.testing.assert_array_equal(program()(3, *arguments), first)
  assert traces == [3]


def test_what_jax_has_cached_is_compiled_again(
  directory, program, arguments, traces, tmp_path
):
  before = jax.config.jax_compilation_cache_dir
  least = jax.config.jax_persistent_cache_min_compile_time_secs
  jax.config.update("jax_compilation_cache_dir", str(tmp_path / "xla"))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  compilation_cache.reset_cache()
  try:
    first = np.asarray(program()._jitted(3, *arguments))
    assert list((tmp_path / "xla").iterdir())
    np.testing.assert_array_equal(program()(3, *arguments), first)
    np.testing.assert_array_equal(program()(3, *arguments), first)
    assert traces == [3, 3]
    assert jax.config.jax_enable_compilation_cache
  finally:
    jax.config.update("jax_compilation_cache_dir", before)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
    compilation_cache.reset_cache()


def test_without_a_store_it_is_jit(program, arguments, traces, tmp_path):
  before = program_store.current()
  program_store.use(None)
  try:
    plain = program()
    plain.prepare(3, *arguments)
    plain(3, *arguments)
    plain(3, *arguments)
  finally:
    program_store._current = before
  assert traces == [3]
  assert not plain._executables


def test_traced_within_another_program(directory, program, arguments):
  params, x, extra = arguments
  inner = program()
  outer = jax.jit(lambda x: 2 * inner(3, params, x, extra))
  np.testing.assert_allclose(
    outer(x), 2 * inner(3, *arguments), rtol=1e-5, atol=1e-5
  )


def test_decoding_imports_neither_flax_nor_scipy():
  names = "m for m in ('flax', 'scipy', 'orbax', 'optax') if m in sys.modules"
  code = f"import sys, egic_jax.bitstream.codec; print([{names}])"
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == "[]"


def test_what_is_not_selected_is_not_passed_on(directory, arguments):
  params, x, _ = arguments
  seen = []

  def product(params, x):
    seen.append(sorted(params))
    return params["w"] @ x

  def make():
    return stored_program.StoredProgram(
      jax.jit(product),
      "product",
      select=lambda params, x: ({"w": params["w"]}, x),
    )

  more = params | {"unused": jnp.ones(3)}
  first = make()(more, x)
  np.testing.assert_array_equal(make()(more, x), first)
  # Traced once, though what is not needed has another shape.
  np.testing.assert_array_equal(make()(params | {"unused": x}, x), first)
  assert seen == [["w"]]
  assert "dot" in make().lower(more, x).as_text()
