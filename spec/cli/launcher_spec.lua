-- ./dopl, the launcher.
local shell = require "cli.shell"

local sanitized = os.getenv "DOPL_SPEC" == "sanitized" -- the launcher builds without sanitizers

describe("the launcher", function()
  -- A tree like the project's with next to nothing to build, in the time of a blink.
  local tree = os.tmpname()
  local log = tree .. "/log"

  setup(function()
    os.remove(tree)
    assert(os.execute(([[
      mkdir -p %s/runtime %s/kernels/optim %s/bin && cp dopl %s/dopl && echo 'int x;' >%s/runtime/a.c
      : >%s/CMakeLists.txt
    ]]):gsub("%%s", tree)))
    -- stand-ins for cmake and ninja that leave a program printing its arguments, and a log
    shell.write(tree .. "/bin/cmake", ([[#!/bin/sh
      echo cmake >>%s
      : >%s/build/build.ninja
    ]]):format(log, tree))
    shell.write(tree .. "/bin/ninja", ([[#!/bin/sh
      echo ninja >>%s
      [ ! -e %s/broken ] || { echo 'a.c:1: error: broken'; exit 1; }
      sleep 0.2
      printf '#!/bin/sh\necho "built:" "$@"\n' >%s/build/dopl && chmod +x %s/build/dopl
    ]]):format(log, tree, tree, tree))
    os.execute(("chmod +x %s/bin/*"):format(tree))
  end)

  teardown(function() os.execute("rm -rf " .. tree) end)

  local function launch(words, from)
    return shell.sh(("unset DOPL_BUILD; cd %s && PATH=%s/bin:$PATH %s/dopl %s"):format(from or "/",
      tree, tree, words))
  end

  local function builds()
    local file = io.open(log)
    if not file then return 0 end
    local _, n = file:read("a"):gsub("ninja", "")
    file:close()
    return n
  end

  it("builds once, then is quiet", function()
    if sanitized then return end
    local status, out, err = launch "a 'b c'"
    assert.equal(0, status, err)
    assert.equal("built: a b c\n", out)
    assert.truthy(err:find "dopl: building", err)
    assert.equal(1, builds())
    status, out, err = launch("x", tree)
    assert.equal(0, status)
    assert.equal("built: x\n", out)
    assert.equal("", err)
    assert.equal(1, builds())
  end)

  it("says so where it cannot build", function()
    if sanitized then return end
    local status, _, err = shell.sh(("DOPL_BUILD=/dev/null/x %s/dopl"):format(tree))
    assert.equal(1, status)
    assert.equal("dopl: cannot write to /dev/null/x, where the build goes; DOPL_BUILD=DIR names "
      .. "another folder\n", err)
  end)

  it("builds again when a source changes, appears or goes", function()
    if sanitized then return end
    os.execute(("sleep 0.05; echo 'int y;' >%s/runtime/a.c"):format(tree))
    launch ""
    assert.equal(2, builds())
    os.execute(("sleep 0.05; echo 'int z;' >%s/runtime/b.c"):format(tree))
    launch ""
    assert.equal(3, builds())
    os.execute(("sleep 0.05; rm %s/runtime/b.c"):format(tree))
    launch ""
    assert.equal(4, builds())
    launch ""
    assert.equal(4, builds())
  end)

  it("builds the plug-in once a device is asked for, and again when nvcc comes", function()
    if sanitized then return end
    local before = builds()
    os.execute(("mkdir -p %s/kernels"):format(tree))
    local function ask(found) -- `sh` stands in for an nvcc that is there
      local nvcc = found and "CUDACXX=sh" or "CUDACXX=/none CUDA_HOME=/none"
      local status, out, err = shell.sh(("unset DOPL_BUILD; cd /; PATH=%s/bin:$PATH %s %s/dopl "
        .. "--device cuda"):format(tree, nvcc, tree))
      assert.equal(0, status, err)
      assert.equal("built: --device cuda\n", out)
      return err
    end
    assert.truthy(ask(false):find "building")
    assert.equal("", ask(false))
    assert.equal(before + 1, builds())
    assert.truthy(ask(true):find "building")
    assert.equal("", ask(true))
    assert.equal(before + 2, builds())
    os.execute(("sleep 0.05; touch %s/kernels/a.cu"):format(tree))
    ask(true)
    assert.equal(before + 3, builds())
  end)

  it("works through a symbolic link", function()
    if sanitized then return end
    local link = tree .. "/link"
    os.execute(("ln -s %s/dopl %s"):format(tree, link))
    local _, out = shell.sh(("unset DOPL_BUILD; cd / && PATH=%s/bin:$PATH %s y"):format(tree, link))
    assert.equal("built: y\n", out)
  end)

  it("builds once for two launches at a time", function()
    if sanitized then return end
    local before = builds()
    os.execute(("sleep 0.05; touch %s/runtime/a.c"):format(tree))
    local _, out = shell.sh((
      "unset DOPL_BUILD; cd /; export PATH=%s/bin:$PATH; %s/dopl 1 & %s/dopl 2 & wait")
      :format(tree, tree, tree))
    assert.equal(before + 1, builds())
    assert.truthy(out:find "built: 1" and out:find "built: 2", out)
  end)

  it("shows the end of the log when the build fails, and tries again next time", function()
    if sanitized then return end
    os.execute(("sleep 0.05; touch %s/runtime/a.c %s/broken"):format(tree, tree))
    for _ = 1, 2 do
      local status, out, err = launch ""
      assert.equal(1, status)
      assert.equal("", out)
      assert.truthy(err:find "a.c:1: error: broken", err)
      assert.truthy(err:find "the build failed", err)
    end
    os.execute(("rm %s/broken"):format(tree))
    assert.equal(0, (launch ""))
  end)

  it("says what a build needs where there is no dpkg", function()
    if sanitized then return end
    local status, _, err = shell.sh(([[
      mkdir -p %s/few && for tool in sh readlink find mkdir flock touch; do
        ln -sf "$(command -v $tool)" %s/few/; done
      touch %s/runtime/a.c; unset DOPL_BUILD; sleep 0.05; touch %s/runtime/a.c
      PATH=%s/few %s/dopl]]):gsub("%%s", tree))
    assert.equal(1, status)
    assert.truthy(err:find "oneDNN", err)
  end)

  it("unpacks missing packages where nothing may be installed", function()
    if sanitized then return end
    local own = tree .. "/own"
    assert(os.execute("mkdir -p " .. tree .. "/apt"))
    -- Of Debian's tools, without a network: nothing is installed, each package is one dpkg unpacks.
    shell.write(tree .. "/apt/dpkg-query", "#!/bin/sh\n")
    shell.write(tree .. "/apt/apt-get", [[#!/bin/sh
      while [ "$1" = -qq ] || [ "$1" = -o ]; do [ "$1" = -qq ] || shift; shift; done
      case $1 in
        install) shift 3; printf 'Conf x\nInst %s (1.0 Debian)\n' "$@" ;;
        download) shift; for each; do echo "$each" >"$each.deb"; done ;;
      esac]])
    shell.write(tree .. "/apt/dpkg", [[#!/bin/sh
      package=$(cat "$2") lib=$3/usr/lib/some-linux-gnu
      mkdir -p "$lib/pkgconfig" "$3/usr/share/doc/$package" "$3/usr/include/some-linux-gnu"
      printf 'prefix=/usr\nlibdir=/usr/lib/some\nother=/usr\nCflags: -I/usr/include\n' \
        >"$lib/pkgconfig/$package.pc"
      ln -sf "$package.so.1" "$lib/$package.so"]])
    assert(os.execute(("chmod +x %s/apt/*; touch %s/runtime/a.c"):format(tree, tree)))
    local run = ("unset DOPL_BUILD; cd /; export DOPL_PACKAGES=%s PATH=%s/apt:%s/bin:$PATH; %s/dopl")
      :format(own, tree, tree, tree)
    local status, out, err = shell.sh(run .. " z")
    assert.equal(0, status, err)
    assert.equal("built: z\n", out)
    assert.truthy(err:find("unpacking what the build needs into " .. own .. ": liblua5.4-dev", 1,
      true), err)
    local _, set = shell.sh(("unset CPATH; . %s/env; echo $CMAKE_PREFIX_PATH $CPATH"):format(own))
    assert.equal("own/usr own/usr/include:own/usr/include/some-linux-gnu\n", (set:gsub(own, "own")))
    local folder = own .. "/usr/lib/some-linux-gnu/"
    assert.equal("prefix=own/usr\nlibdir=own/usr/lib/some\nother=/usr\nCflags: -Iown/usr/include\n",
      (shell.read(folder .. "pkgconfig/libdnnl-dev.pc"):gsub(own, "own")))
    local _, link = shell.sh("readlink " .. folder .. "libdnnl-dev.so")
    assert.equal("/usr/lib/some-linux-gnu/libdnnl-dev.so.1\n", link)
    _, _, err = shell.sh(run .. " --setup lua-busted")
    assert.truthy(err:find(": lua-busted\n", 1, true), err)
    _, _, err = shell.sh(run .. " --setup lua-busted")
    assert.equal("", err)
    status, _, err = shell.sh(run:gsub("/own", "/o,wn") .. " --setup lua-busted")
    assert.equal(1, status)
    assert.truthy(err:find("packages cannot be used from " .. tree .. "/o,wn: DOPL_PACKAGES", 1,
      true), err)
  end)

  it("names all programs at once that only an administrator can install", function()
    if sanitized then return end
    shell.write(tree .. "/few/dpkg-query", "#!/bin/sh\n")
    local status, _, err = shell.sh(([[
      for tool in id sh; do ln -sf "$(command -v $tool)" %s/few/; done
      chmod +x %s/few/dpkg-query; unset DOPL_BUILD
      DOPL_PACKAGES=%s/none PATH=%s/few %s/dopl --setup g++ lua-check]]):gsub("%%s", tree))
    assert.equal(1, status)
    assert.equal("dopl: programs are missing that only an administrator can install:\n"
      .. "dopl:   apt-get install cmake ninja-build gcc pkg-config\n", err)
  end)

  it("adds less than a fifth of a second", function()
    if sanitized then return end
    -- the shortest of ten: what else the machine does must not count
    local _, out = shell.sh(([[
      unset DOPL_BUILD; cd /; export PATH=%s/bin:$PATH; %s/dopl >/dev/null 2>&1
      for i in 1 2 3 4 5 6 7 8 9 10; do
        start=$(date +%%s%%N); %s/dopl >/dev/null; echo $((($(date +%%s%%N) - start) / 1000000))
      done | sort -n | head -n 1]]):format(tree, tree, tree))
    assert.truthy(tonumber(out) < 200, out .. " ms")
  end)
end)
