"""tests/<folder>/test_<module>.py tests the module of that name: in accountants/, or in the same folder of dpmi/.

A test file whose name is no module's holds a promise that spans modules. Its docstring then ends with their paths,
which grep finds: ``Modules: dpmi/privacy/loader.py, dpmi/privacy/sampling.py.``
"""
