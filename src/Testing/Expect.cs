using Virtbus.Platform;

namespace Virtbus.Testing;

/// <summary>What a test expects of calls that are refused.</summary>
public static class Expect
{
    /// <summary>Expects a call to be refused.</summary>
    /// <param name="errno">The error.</param>
    /// <param name="call">The call; it ends within <see cref="Deadline.Limit"/>.</param>
    /// <returns>What it was refused with, for its words.</returns>
    /// <exception cref="ExpectationException">It was not refused, or with another error.</exception>
    /// <exception cref="TimeoutException">It did not end.</exception>
    public static async Task<VirtbusException> RefusedAsync(Errno errno, Func<ValueTask> call)
    {
        ArgumentNullException.ThrowIfNull(call);
        try
        {
            await call().In().ConfigureAwait(false);
        }
        catch (VirtbusException e)
        {
            return Checked(errno, e);
        }

        throw NotRefused(errno);
    }

    /// <summary>As the other one, for a call that is done when it returns.</summary>
    /// <param name="errno">The error.</param>
    /// <param name="call">The call.</param>
    /// <returns>What it was refused with.</returns>
    /// <exception cref="ExpectationException">It was not refused, or with another error.</exception>
    public static VirtbusException Refused(Errno errno, Action call)
    {
        ArgumentNullException.ThrowIfNull(call);
        try
        {
            call();
        }
        catch (VirtbusException e)
        {
            return Checked(errno, e);
        }

        throw NotRefused(errno);
    }

    private static VirtbusException Checked(Errno errno, VirtbusException e) =>
        e.Errno == errno ? e : throw new ExpectationException($"Expected {errno}, but it was refused with {e.Errno}: {e.Message}");

    private static ExpectationException NotRefused(Errno errno) => new($"Expected {errno}, but the call was not refused.");
}
