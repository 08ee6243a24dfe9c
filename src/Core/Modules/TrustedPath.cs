using Virtbus.Platform;

namespace Virtbus.Core;

/// <summary>
/// Tells whether nobody but the user who runs this, root, and who owns the program can change what a path leads to. Looks at the file and at
/// every folder and link on the way to it, as sshd's StrictModes does: who may write a folder can put another file there, or rename what is
/// above it.
/// </summary>
internal static class TrustedPath
{
    private const int MaxLinks = 40;
    private const UnixFileMode Writable = UnixFileMode.GroupWrite | UnixFileMode.OtherWrite;

    /// <summary>Looks at a path and all that leads to it.</summary>
    /// <param name="path">A file or folder.</param>
    /// <param name="reason">A sentence that says who else can change what, and the remedy.</param>
    /// <returns>
    /// False when others can change it, or when it can't be looked at. What leads nowhere is nobody's; who opens it says what is wrong.
    /// </returns>
    public static bool TryCheck(string path, out string reason)
    {
        var links = 0;
        var left = new Stack<string>(Names(Path.GetFullPath(path)).Reverse());
        var at = "/";
        if (!TryCheckOne(at, isLast: left.Count == 0, out _, out reason))
            return false;
        while (left.TryPop(out var name))
        {
            var next = Path.Join(at, name);
            if (!TryCheckOne(next, isLast: left.Count == 0, out var kind, out reason))
                return false;
            if (kind is null)
                return true;
            if (kind != FileKind.Link)
            {
                at = next;
                continue;
            }
            if (++links > MaxLinks || new FileInfo(next).LinkTarget is not { } target)
                return true;
            // The way goes on where the link points, and that way is looked at from its beginning.
            foreach (var part in Names(Path.GetFullPath(target, at)).Reverse())
                left.Push(part);
            at = "/";
        }
        return true;
    }

    /// <summary>Looks at a file in a folder that is trusted.</summary>
    /// <param name="path">The file.</param>
    /// <param name="reason">As for <see cref="TryCheck"/>.</param>
    public static bool TryCheckFile(string path, out string reason) =>
        TryCheckOne(path, isLast: true, out var kind, out reason) && (kind != FileKind.Link || TryCheck(path, out reason));

    private static string[] Names(string path) => path.Split('/', StringSplitOptions.RemoveEmptyEntries);

    private static bool TryCheckOne(string path, bool isLast, out FileKind? kind, out string reason)
    {
        kind = null;
        reason = "";
        if (!FilePermissions.TryGet(path, follow: false, out var found, out var error))
        {
            if (error != Errno.ENOENT)
                reason = $"{path} can't be looked at: {error}. Check that its folders may be entered.";
            return error == Errno.ENOENT;
        }
        kind = found.Kind;
        if (!IsTrusted(found.Owner))
        {
            reason = $"{path} belongs to user {found.Owner}, who is neither user {FileOwner.CurrentUser} who runs this nor root and could change it. Use: chown {FileOwner.CurrentUser} {path}, or copy the modules to a folder of your own.";
            return false;
        }
        // The mode of a link says nothing, and a device or pipe is no module. In a sticky folder on the way (/tmp) nobody can move what belongs
        // to another.
        if (found.Kind is not (FileKind.Regular or FileKind.Directory) || (found.Mode & Writable) == UnixFileMode.None || (!isLast && found.Kind == FileKind.Directory && found.Mode.HasFlag(UnixFileMode.StickyBit)))
            return true;
        if (found.Mode.HasFlag(UnixFileMode.OtherWrite))
            reason = $"{path} has mode {Octal(found.Mode)}, so every user can change it. Use: chmod go-w {path}";
        else if (!PrivateGroup.IsOf(found.Owner, found.Group))
            reason = $"{path} has mode {Octal(found.Mode)}, so everybody in its group {found.Group} can change it. Use: chmod g-w {path}";
        return reason.Length == 0;
    }

    // Who owns the program decides what it does anyway, and so does who owns the root folder (in a user namespace, root has another number).
    private static bool IsTrusted(uint owner) =>
        owner == 0 || owner == FileOwner.CurrentUser || IsOwnerOf("/", owner) || IsOwnerOf(typeof(TrustedPath).Assembly.Location, owner);

    private static bool IsOwnerOf(string path, uint owner) =>
        path.Length > 0 && FilePermissions.TryGet(path, follow: true, out var found, out _) && found.Owner == owner;

    private static string Octal(UnixFileMode mode) => Convert.ToString((int)mode, 8);
}
