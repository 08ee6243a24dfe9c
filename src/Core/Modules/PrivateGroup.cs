namespace Virtbus.Core;

/// <summary>
/// The group that a user has for himself. Where users have one, files are writable by their group as a matter of course (umask 002), and
/// nobody else is in it.
/// </summary>
internal static class PrivateGroup
{
    /// <summary>
    /// Whether a group is the user's own: it bears the user's name, is the user's first group, and has no other member. Looks at /etc/passwd and
    /// /etc/group only; a group that is kept elsewhere counts as one with others in it.
    /// </summary>
    /// <param name="user">The user's id.</param>
    /// <param name="group">The group's id.</param>
    public static bool IsOf(uint user, uint group)
    {
        try
        {
            return IsOf(user, group, File.ReadLines("/etc/passwd"), File.ReadLines("/etc/group"));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return false;
        }
    }

    /// <summary>The same with the lines of the two files.</summary>
    public static bool IsOf(uint user, uint group, IEnumerable<string> users, IEnumerable<string> groups)
    {
        var (userId, groupId) = ($"{user}", $"{group}");
        string? name = null;
        foreach (var line in users)
        {
            // name:password:uid:gid:…
            if (line.Split(':') is not [var who, _, var id, var first, ..] || first != groupId)
                continue;
            if (id != userId)
                return false;
            name ??= who;
        }
        // name:password:gid:members
        return name is not null && groups.Any(line => line.Split(':') is [var who, _, var id, var members, ..]
            && id == groupId && who == name && members.Split(',', StringSplitOptions.RemoveEmptyEntries).All(m => m == name));
    }
}
