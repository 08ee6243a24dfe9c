using Virtbus.Tests.Cli;

namespace Virtbus.Tests.Guest;

/// <summary>A disk with programs of the host for a guest that changes its root to it: each with the libraries that it needs.</summary>
internal static class ToolImage
{
    /// <summary>Shell: puts the libraries of what is in <c>$root</c> there.</summary>
    internal const string CopyLibraries = """
        for library in $(find $root -type f \( -name '*.so' -o -perm -u=x \) -exec ldd {} + 2>/dev/null | grep -o '=> /[^ ]*\|^	/[^ ]*' | sed 's/=> //' | sort -u); do
            case $library in $root/*) continue ;; esac
            mkdir -p $root${library%/*}
            cp -L $library $root$library
        done

        """;

    private const string Make = """
        set -e
        PATH=$PATH:/usr/sbin:/sbin
        image=$1 root=$1.root
        shift
        mkdir -p $root/bin $root/proc $root/sys $root/dev $root/tmp $root/run
        for tool; do cp -L $(command -v $tool) $root/bin; done

        """ + CopyLibraries + """
        truncate -s 48M $image
        mke2fs -q -t ext4 -O ^has_journal -m 0 -d $root $image
        """;

    /// <summary>Makes it.</summary>
    /// <param name="fabric">Whose folder it is put in.</param>
    /// <param name="tools">Programs of the host's PATH.</param>
    /// <returns>Its path.</returns>
    public static async Task<string> MakeAsync(TestFabric fabric, params string[] tools)
    {
        var image = fabric.Write("tools.img", "");
        var run = await TestFabric.EndAsync(fabric.StartProgram("sh", ["-c", Make, "sh", image, .. tools]));
        Assert.True(run.Code == 0, $"{run}");
        return image;
    }
}
