using System.CommandLine;
using Virtbus.Cli.Mounting;
using Virtbus.Cli.Text;
using Virtbus.Daemon.Api;
using Virtbus.Platform;

namespace Virtbus.Cli.Verbs;

internal static class MountVerbs
{
    /// <param name="command">What followed '--'; null when there was none.</param>
    public static Command Mount(string[]? command)
    {
        var folder = Names.File(new Argument<string?>("DIR") { Description = "A folder to mount the tree on; all mounts are listed when absent.", Arity = ArgumentArity.ZeroOrOne });
        var overSys = new Option<bool>("--over-sys") { Description = "Run the command that follows '--' with the tree in place of /sys, seen by it alone. The host's processors, memory and control groups stay there." };
        var inside = new Option<bool>(SysOverlay.Inside) { Hidden = true };
        var verb = new Command("mount", "Mount the fabric's tree on a folder, for lspci, driverctl, a shell and whatever else reads sysfs.") { folder, overSys, inside };
        CommandLine.AddCheck(verb, result =>
        {
            var isOver = result.GetValue(overSys);
            if (isOver && command is null or [])
                result.AddError("'virtbus mount --over-sys' needs '--' and a COMMAND, which sees the tree as /sys.");
            if (isOver && result.GetValue(folder) is not null)
                result.AddError("'virtbus mount' takes a DIR or --over-sys, not both.");
            if (!isOver && command is not null)
                result.AddError("'virtbus mount' runs a command with --over-sys only. Leave out '--' and what follows.");
        });
        verb.SetAction(result =>
        {
            var client = ControlClient.FromEnvironment();
            if (result.GetValue(overSys))
                return result.GetValue(inside) ? SysOverlay.Run(client, command!) : SysOverlay.Enter(client.Runtime, command!);
            if (result.GetValue(folder) is { } place)
                TreeMounter.Mount(client.Runtime, RequireFolder(place));
            else
                CommandLine.OutputOf(result).Print(client.Ask("GET", "/v1/mounts"), ApiJson.Default.IReadOnlyListMountAnswer, WriteList);
            return ExitCode.Done;
        });
        return verb;
    }

    public static Command Unmount()
    {
        var folder = Names.File(new Argument<string>("DIR") { Description = "The folder that the tree is mounted on." });
        var verb = new Command("umount", "Take a mount of the tree away. Files that are open there answer until they are closed.") { folder };
        verb.SetAction(result =>
        {
            var place = Physical(result.GetRequiredValue(folder));
            if (!TreeMounter.IsMounted(place))
                throw new VirtbusException(Errno.EINVAL, $"No tree is mounted on {place}. 'virtbus mount' lists those that are.");
            TreeMounter.Unmount(place);
            return ExitCode.Done;
        });
        return verb;
    }

    // First whether one is there: a mount whose fabric is gone answers to nothing, and looks as if no folder were there.
    private static string RequireFolder(string place)
    {
        var full = Physical(place);
        if (TreeMounter.IsMounted(full))
            throw new VirtbusException(Errno.EBUSY, $"A tree is mounted on {full} already. Take it away with 'virtbus umount {ShellQuote.Quote(full)}'.");
        return Directory.Exists(full) ? full : throw new VirtbusException(Errno.ENOENT, $"{full} is no folder. Make it with 'mkdir -p {ShellQuote.Quote(full)}'.");
    }

    // As the host's list of mounts has it: without links on the way.
    private static string Physical(string path)
    {
        var place = "/";
        foreach (var name in Path.GetFullPath(path).Split('/', StringSplitOptions.RemoveEmptyEntries))
        {
            var next = Path.Combine(place, name);
            place = new DirectoryInfo(next).LinkTarget is not null && Directory.ResolveLinkTarget(next, returnFinalTarget: true) is { } target ? Physical(target.FullName) : next;
        }

        return place;
    }

    private static void WriteList(TextWriter writer, IReadOnlyList<MountAnswer> mounts)
    {
        var table = new Table("MOUNTED ON", "OWNER", "OPEN FILES");
        foreach (var mount in mounts)
            table.Add(mount.Folder, $"{mount.User}", $"{mount.OpenFiles}");
        table.WriteTo(writer);
    }
}
