namespace Virtbus.Provisioning;

/// <summary>A device that somebody outside the fabric can have open. What a function's device or one below it says makes the function in use.</summary>
public interface IUserHeld
{
    /// <summary>Whether somebody has it open at this moment. Any thread.</summary>
    bool IsHeld { get; }

    /// <summary>
    /// Ends when who has it open now has let go: a function is not deactivated before that. Has ended when nobody has it, and where its driver waits for
    /// that by itself when it is unbound. Any thread.
    /// </summary>
    Task Left => Task.CompletedTask;
}
