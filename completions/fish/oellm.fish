# Completion of oellm's commands in fish. `oellm completion fish` prints it, too.

function __oellm_complete
    # Never a program of a directory that was only typed.
    set -l oellm (command -s oellm)
    or set oellm $_oellm_command
    test -x "$oellm"
    or return
    set -l token (commandline -ct)
    set -l lines ($oellm __complete fish (commandline -opc) "$token" 2>/dev/null </dev/null)
    set -q lines[1]
    or return
    string join \n -- $lines[2..-1]
    set -l head (string split \t -- $lines[1])
    set -l paths
    switch $head[1]
        case files
            set paths (__fish_complete_path $head[4])
        case directories
            set paths (__fish_complete_directories $head[4] "")
    end
    for path in $paths
        # A line break in a name has made two lines of it.
        set -l name (string split \t -- $path)[1]
        if test -e $name; or string match -q '~*' -- $name
            echo -- $head[3]$path
        end
    end
end

complete -c oellm -c global-benchmark -c oe-build -c oe-collect -c oe-compare -c oe-config \
    -c oe-detect -c oe-docs -c oe-doctor -c oe-fetch -c oe-manifest -c oe-missing -c oe-pivot \
    -c oe-render -c oe-report -c oe-run-task -c oe-smoke -c oe-status -c oe-submit -f -a '(__oellm_complete)'
