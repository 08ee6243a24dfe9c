using Virtbus.Platform;

namespace Virtbus.Daemon.Manifest;

/// <summary>A manifest that can't be used, with everything that is wrong in it; the message has a line for each error.</summary>
internal sealed class ManifestException(string file, IReadOnlyList<ManifestError> errors)
    : VirtbusException(Errno.EINVAL, string.Join('\n', Lines(file, errors)))
{
    // A file that is no manifest at all has an error in each of its lines.
    private const int MaxLines = 50;

    public IReadOnlyList<ManifestError> Errors { get; } = errors;

    private static IEnumerable<string> Lines(string file, IReadOnlyList<ManifestError> errors)
    {
        var lines = errors.Take(MaxLines).Select(e => e.ToString(file));
        return errors.Count <= MaxLines ? lines : lines.Append($"{file}: {errors.Count - MaxLines} more errors. Is it a manifest?");
    }
}
